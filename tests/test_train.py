"""A student is really trained: on its rows alone, the same however it is spread, and better than before."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_blocks import made_blocks, row, rows_of
from small_study import TESTS
from small_training import ALONE, ARCHITECTURE, BLOCK, PRESET, RECIPE, UNTIED, Study, load, losses, zero
from test_attention import answer_loss
from tiny import phases, progress_written

from jobs import toy
from jobs.core.flops import train_flops
from jobs.data.blocks import Blocks
from jobs.runtime.signals import REASONS
from jobs.stages import train
from jobs.stages.train import answer_losses, build
from jobs.store.rundir import read_json, read_jsonl
from jobs.text.chat import Chat
from jobs.text.encoding import encode
from jobs.text.thinking import Thinking
from jobs.training.schedule import Recipe, Schedule, micro_steps, scheduled, training_order

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")


def forget_process() -> None:
    """accelerate keeps the state of a process forever, and a job is a process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.set_num_threads(1)
    before = {number: signal.getsignal(number) for number in REASONS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    forget_process()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def curve(study: Study) -> list[float]:
    """The losses of one process that takes the whole batch at once."""
    found = losses(study.train("alone", {}, {}))
    forget_process()
    return found


def test_measured_flops_are_saved_with_the_weights(tmp_path: Path) -> None:
    measured = {"per_token": 2000, "per_output": 200, "per_pair": 20, "parameters": 1, "active_parameters": 1}
    own = {**ARCHITECTURE, "model_type": "olmo3", "flops": measured}
    model = build({**PRESET, "architecture": own}, Recipe(**RECIPE), ALONE)
    assert train_flops(model.config, [3]) == 3 * (3 * 2200 + 9 * 20)
    model.save_pretrained(tmp_path)
    assert train_flops(tmp_path, [3]) == 3 * (3 * 2200 + 9 * 20)
    assert type(model).from_pretrained(tmp_path).config.flops == measured
    assert own["flops"] == measured


def alone(model: Any, tokens: Any, learn: Any) -> float:
    """The summed loss of one row's answer, in a batch of its own."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    wanted = torch.from_numpy(learn[1:])
    return float(torch.nn.functional.cross_entropy(logits[wanted], ids[1:][wanted], reduction="sum"))


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_packed_rows_are_learnt_as_if_each_were_alone(study: Study, micro_batch: int) -> None:
    model = build(PRESET, Recipe(**RECIPE), ALONE).eval()
    with torch.no_grad():
        for weight in model.parameters():  # far from nothing to say: leaks would show
            weight.mul_(3.0)
    blocks, chosen = study.blocks, np.arange(micro_batch)
    with torch.no_grad():
        found = float(answer_loss(model, blocks, chosen, "cpu"))
    model.set_attn_implementation("sdpa")
    total = 0.0
    whole = list[tuple[Any, Any]]()
    for number in range(micro_batch):
        rows = rows_of(blocks, number, number + 1)
        assert len(rows) > 2, "a block of one row shows nothing"
        total += sum(alone(model, np.array(p + a), np.arange(len(p + a)) >= len(p)) for p, a in rows)
        tokens = [token for p, a in rows for token in p + a]
        whole.append((tokens, [flag for p, a in rows for flag in [False] * len(p) + [True] * len(a)]))
    assert found == pytest.approx(total, rel=1e-5)
    leaking = sum(alone(model, np.array(tokens), np.array(learn)) for tokens, learn in whole)
    assert abs(leaking - total) > 1e-3 * total, "the model does not mind leaks: this test shows nothing"


def test_losses_are_told_apart_by_the_kind_of_row(study: Study, curve: list[float]) -> None:
    model, last = build(PRESET, Recipe(**RECIPE), ALONE).eval(), sum(study.blocks.phases) - 1
    with torch.no_grad():
        whole, parts = answer_losses(model, study.blocks, np.array([0, last]), "cpu")
        plain, reasoning = (float(answer_loss(model, study.blocks, np.array([n]), "cpu")) for n in (0, last))
    assert parts.tolist() == pytest.approx([plain, reasoning], rel=1e-5)
    assert float(whole) == pytest.approx(plain + reasoning, rel=1e-5)
    out = study.root.unit(study.unit("alone", {}, {})).out
    lines = list(read_jsonl(out / "metrics.jsonl"))
    assert (lines[0]["loss_plain"], "loss_reasoning" in lines[0]) == (pytest.approx(curve[0]), False)
    assert (lines[-1]["loss_reasoning"], "loss_plain" in lines[-1]) == (pytest.approx(curve[-1]), False)
    both = [line for line in lines if {"loss_plain", "loss_reasoning"} <= line.keys()]
    assert all(min(a, b) < line["loss"] < max(a, b) for line in both
               for a, b in [(line["loss_plain"], line["loss_reasoning"])])  # fmt: skip


@pytest.mark.parametrize(
    "execution", [{"micro_batch": 1}, {"micro_batch": 2}, {"micro_batch": 2, "gradient_checkpointing": True}]
)
def test_the_micro_batch_does_not_change_the_training(
    study: Study, curve: list[float], execution: dict[str, Any]
) -> None:
    found = losses(study.train("-".join(map(str, execution.values())), {}, execution))
    assert len(found) == len(curve) > 5
    assert found == pytest.approx(curve, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zero 0", "zero 1", "zero 2", "zero 3", "without DeepSpeed"])
def test_two_processes_train_the_same_student(
    study: Study, curve: list[float], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    execution = zero(int(how[-1])) if how[-1].isdigit() else {}
    if execution:
        pytest.importorskip("deepspeed")
    out = study.train(how.replace(" ", "-"), {}, {"micro_batch": 1, **execution}, processes=2)
    assert losses(out) == pytest.approx(curve, rel=1e-4)
    one = study.root.unit(next(d.unit() for d in study.root.published("train") if d.unit().name == "alone"))
    single, shared = read_json(one.result), read_json(out / "result.json")
    for key in ("tokens", "answer_tokens", "flops", "step", "parameters"):
        assert shared[key] == single[key]
    weights = load(one.out), load(out)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-3), name
    norms = [[line.get("gradient_norm") for line in read_jsonl(o / "metrics.jsonl")] for o in (one.out, out)]
    assert norms[1][:3] == ([None] * 3 if how == "zero 0" else pytest.approx(norms[0][:3], rel=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "processes"), [(None, 4), (1, 2), (3, 2)])
def test_processes_that_share_blocks_train_the_same_student(
    study: Study, curve: list[float], stage: int | None, processes: int
) -> None:
    """Also two groups, several micro-batches a step, one head of keys for both, and layers computed again."""
    execution = {"micro_batch": 1, "sequence_parallel": 2, "gradient_checkpointing": True}
    execution |= {} if stage is None else zero(stage)
    unit = study.unit(f"sharing-{stage}", {}, execution, processes)
    assert study.run(unit, 1) == "done"
    out, one = study.root.unit(unit).out, study.root.unit(study.unit("alone", {}, {})).out
    assert losses(out)[:8] == pytest.approx(curve[:8], rel=1e-5)
    assert losses(out) == pytest.approx(curve, rel=1e-4)
    lines = [list(read_jsonl(folder / "metrics.jsonl")) for folder in (out, one)]
    for key in ("step", "tokens", "answer_tokens", "flops", "learning_rate"):
        assert [line[key] for line in lines[0]] == [line[key] for line in lines[1]]
    for key in ("loss_plain", "loss_reasoning"):
        parts = [[line[key] for line in of_run if key in line] for of_run in lines]
        assert parts[0] == pytest.approx(parts[1], rel=1e-4)
        assert parts[0]
    norms = [[line["gradient_norm"] for line in of_run[:3]] for of_run in lines]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_processes_make_no_difference_in_bf16_and_with_a_head_of_its_own(
    study: Study, stage: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are added up and reduced in fp32, whatever the stage of ZeRO."""
    monkeypatch.setattr(study, "model", UNTIED)
    execution = {"micro_batch": 1, **({} if stage is None else zero(stage))}
    found = []
    for processes in (1, 2):
        unit = study.unit(f"untied-{stage}-{processes}", {"dtype": "bf16"}, execution, processes)
        assert study.run(unit, 1) == "done"
        found.append(losses(study.root.unit(unit).out))
    assert found[0] == pytest.approx(found[1], rel=2e-3)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6), "before the first update all is the same"


@pytest.fixture(scope="module")
def trained(study: Study) -> Path:
    """A student that had time to learn."""
    return study.train("trained", {"epochs": 12}, {})


def held_out(study: Study) -> Blocks:
    questions = study.held_out
    chat = Chat.of(study.tokenizer, Thinking(toy.OPEN, toy.CLOSE))
    asked, traces = [toy.text(q) for q in questions], [toy.steps(q) for q in questions]  # the last phase's
    rows = encode(study.tokenizer, chat, asked, traces, [toy.answer(q) for q in questions])
    return Blocks.of_rows(rows, BLOCK)


def test_the_student_has_learnt_and_loads_as_it_is(study: Study, trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = Recipe(**RECIPE)
    start = build(PRESET, recipe, ALONE)
    taught = build({**PRESET, "init": "pretrained", "model": str(trained / "model")}, recipe, ALONE)
    student = AutoModelForCausalLM.from_pretrained(trained / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    before, after = start.state_dict(), student.state_dict()
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == len(before), "some weights were not trained"

    unseen = held_out(study)
    every, answers = np.arange(len(unseen)), sum(unseen.answers(np.arange(len(unseen))))
    with torch.no_grad():
        untrained, found = (float(answer_loss(m, unseen, every, "cpu")) / answers for m in (start, taught))
    assert untrained > 3.0, "near the logarithm of the vocabulary's size"
    assert found < 0.5 * untrained

    assert tokenizer.chat_template == toy.TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer.eos_token_id == end
    assert student.config.eos_token_id == student.generation_config.eos_token_id == end
    assert student.dtype == torch.float32
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a:3="}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        answer = student.generate(**prompt, max_new_tokens=40, do_sample=False)[0]
    assert answer[-1] == end, "it has not learnt to end its turn"
    assert len(answer) < 40


def test_a_training_says_what_it_does_while_it_starts(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    written = progress_written(monkeypatch)
    study.train("phases", {}, {})
    starting = [("importing transformers", True), ("loading the model", True)]
    assert phases(written) == [*starting, ("training", False)]
    assert {record["total"] for record in written} == {written[-1]["done"]}
    first = next(record for record in written if "outside" not in record)
    assert first["done"] == 0
    assert first["working_since"] == pytest.approx(first["updated"]), "loading is not part of the work"


def test_the_result_counts_what_was_done(study: Study, trained: Path) -> None:
    result, blocks = read_json(trained / "result.json"), study.blocks
    schedule = scheduled(blocks, Recipe(**{**RECIPE, "epochs": 12}), ARCHITECTURE)
    order = training_order(blocks.phases, 12, 0)
    done = order[: len(order) // 4 * 4]
    lengths = blocks.lengths(done)
    assert result["flops"] == train_flops(ARCHITECTURE, lengths)
    assert result["tokens"] == sum(lengths)
    assert result["answer_tokens"] == sum(blocks.answers(done))
    assert result["step"] == schedule.steps == len(order) // 4
    assert "budget" not in result
    assert {k: result[k] for k in ("student", "size", "share", "order", "seed")} == {
        "student": "t", "size": "tiny", "share": 0.5, "order": "sequential", "seed": 0,
    }  # fmt: skip
    assert result["parameters"] == sum(w.numel() for w in load(trained).values())
    log = list(read_jsonl(trained / "metrics.jsonl"))
    assert log[-1]["step"] == result["step"]
    assert log[-1]["flops"] == result["flops"]
    assert log[-1]["loss"] == result["loss"] < log[0]["loss"]
    for line in log:
        assert line["learning_rate"] == schedule.rate(line["step"] - 1)
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"])
    assert 0 < log[0]["flops"] < log[-1]["flops"]


def test_the_norm_of_the_gradient_is_that_of_the_loss_per_answer_token(study: Study) -> None:
    model, blocks = build(PRESET, Recipe(**RECIPE), ALONE), study.blocks
    first = training_order(blocks.phases, 12, 0)[: RECIPE["batch"]]
    answers = sum(blocks.answers(first))
    (answer_loss(model, blocks, first, "cpu") / answers).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    for clip in (RECIPE["clip"], norm / 2):  # before it is clipped
        log = list(
            read_jsonl(study.train(f"norm {clip}", {"clip": clip}, {"micro_batch": 2}) / "metrics.jsonl")
        )
        assert log[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def test_half_precision_is_saved_as_such(study: Study, curve: list[float]) -> None:
    out = study.train("half", {"dtype": "bf16"}, {})
    assert {w.dtype for w in load(out).values()} == {torch.bfloat16}
    assert read_json(out / "model" / "config.json")["dtype"] == "bfloat16"
    assert losses(out) == pytest.approx(curve, rel=0.05)


def test_a_seed_changes_weights_and_order(study: Study) -> None:
    models = [build(PRESET, Recipe(**{**RECIPE, "seed": seed}), ALONE).state_dict() for seed in (0, 0, 1)]
    name = "model.embed_tokens.weight"
    assert torch.equal(models[0][name], models[1][name])
    assert not torch.equal(models[0][name], models[2][name])
    first, again, other = (training_order(study.blocks.phases, 2, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_training_order_takes_each_phase_in_turn_and_each_block_once_an_epoch() -> None:
    order = training_order((7, 5), epochs=3, seed=0).tolist()
    epochs = [order[i : i + 7] for i in (0, 7, 14)] + [order[i : i + 5] for i in (21, 26, 31)]
    assert [sorted(e) for e in epochs] == [list(range(7))] * 3 + [list(range(7, 12))] * 3
    assert len({tuple(e) for e in epochs}) == 6, "two epochs have the same order"


def of_steps(steps: int, **recipe: Any) -> Schedule:
    """The schedule of a training of so many steps."""
    made = Recipe(**{**RECIPE, "batch": 1, **recipe})
    return scheduled(made_blocks([[row(1, 0)]] * steps, 1), made, ARCHITECTURE)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate(schedule: str) -> None:
    made = of_steps(100, schedule=schedule, learning_rate=2.0, warmup=0.1)
    rates = [made.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(rates) == rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    middle, last = {"cosine": (1.0, 0.01), "linear": (1.0, 0.05), "constant": (2.0, 2.0)}[schedule]
    assert rates[55] == pytest.approx(middle, rel=1e-6)
    assert rates[99] <= last
    assert all(math.isfinite(r) and r > 0 for r in rates)


def test_the_rate_of_wsd_is_that_of_transformers() -> None:
    from transformers import get_wsd_schedule

    made = of_steps(104, schedule="wsd", learning_rate=1.0, warmup=0.1, cooldown=0.2)
    assert (made.warmup, made.cooldown, made.stable) == (11, 21, 83)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_wsd_schedule(optimizer, 11, 21, num_training_steps=104, decay_type="1-sqrt")
    for step in range(made.steps):
        # Their warmup begins with a step at a rate of zero.
        expected = theirs.get_last_lr()[0] + (1 / 11 if step < 11 else 0.0)
        assert made.rate(step) == pytest.approx(expected)
        optimizer.step()
        theirs.step()
    assert made.rate(83) == 1.0 > made.rate(84)
    assert 0 < made.rate(103) < 0.03


def test_learning_rate_without_warm_up_and_of_one_step() -> None:
    assert of_steps(1, warmup=0.0).rate(0) == RECIPE["learning_rate"]
    assert of_steps(1).rate(0) == RECIPE["learning_rate"]


def test_a_batch_that_cannot_be_shared_is_refused_in_words(study: Study) -> None:
    assert micro_steps(12, 2, 3) == 2
    words = r"batch is 4 blocks, which 1 processes with a micro_batch of 3 .*: make it a multiple of 3, or"
    with pytest.raises(ValueError, match=words):
        study.train("shared", {}, {"micro_batch": 3})
    with pytest.raises(
        ValueError, match=r"packs into \d+ blocks over all epochs, and training.batch asks for 4096"
    ):
        study.train("batch", {"batch": 4096}, {"micro_batch": 4})


def test_a_budget_of_a_preset_with_another_architecture_is_refused(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**ARCHITECTURE, "intermediate_size": 63}
    monkeypatch.setattr(study, "model", {**study.model, "architecture": other})
    with pytest.raises(
        ValueError, match=rf"training\.flops: a row of {BLOCK} tokens takes .*: correct that, or"
    ):
        study.train("other", {"epochs": None, "flops": 1e9}, {})


def test_norms_and_biases_do_not_decay() -> None:
    groups = train.decayed(build(PRESET, Recipe(**RECIPE), ALONE), 0.1)
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    counted = sum(p.numel() for g in groups for p in g["params"])
    assert counted == build(PRESET, Recipe(**RECIPE), ALONE).num_parameters()
