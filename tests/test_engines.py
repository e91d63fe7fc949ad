from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny import traced

from jobs.core.paths import CODE
from jobs.engines import load
from jobs.engines.base import Completion, Engine, Request
from jobs.text.thinking import Thinking

TAGS = Thinking("<think>", "</think>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def vllm(folder: Path) -> Any:
    engine = load.load(str(folder), None, {"engine": "vllm"})
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Engine:
    return load.load(str(folder), None, {"engine": "transformers"})


def prompts(engine: Engine, count: int = 40) -> list[list[int]]:
    return [engine.encode(f"<|user|>{i}+{i * 7}=?<|end|><|assistant|>") for i in range(count)]


def answers(engine: Engine, **sampling: Any) -> list[Completion]:
    asked = [Request(i, p, 40, **sampling) for i, p in enumerate(prompts(engine))]
    return sorted(engine.generate(asked), key=lambda c: c.request.key)


def test_auto_takes_vllm_where_it_is_installed(vllm: Engine) -> None:
    assert vllm.name.startswith("vllm")
    assert load.why_not_vllm() == ""


def test_the_engine_arguments_that_presets_may_give_are_those_of_the_installed_vllm(vllm: Engine) -> None:
    made = runpy.run_path(str(CODE / "docs/vllm_arguments.py"))
    assert f"vllm {made['arguments']()['version']}" in vllm.name
    assert made["FILE"].read_text(encoding="utf-8") == made["text"](), "make reference"


WHY_NOT = "import os, sys; from jobs.engines import load; print(load.why_not_vllm()); "
ON_GPUS = "os.environ['CUDA_VISIBLE_DEVICES'] = '2,3'; load.why_not_vllm()"


def asked(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that finds modules in a folder first."""
    environ = {**os.environ, "PYTHONPATH": f"{path}:{CODE}", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, encoding="utf-8", check=False
    )


def test_auto_does_not_hide_a_broken_installation(tmp_path: Path) -> None:
    """Answers of plain transformers would be right, and take days more."""
    broken = "raise ImportError('libfoo.so.3: undefined symbol: bar')\n"
    (tmp_path / "msgspec.py").write_text(broken, encoding="utf-8")
    done = asked(WHY_NOT, tmp_path)
    assert done.returncode == 1
    *_, said = done.stderr.splitlines()
    assert said.startswith(
        "jobs.engines.load.BrokenEngine: vLLM is installed but cannot be imported: ImportError: "
    )
    assert "libfoo.so.3: undefined symbol: bar" in said
    assert "set 'serving: {engine: transformers}'" in said


PLATFORMS = """class current_platform:
    is_unspecified = staticmethod(lambda: True)
"""


def test_auto_takes_transformers_where_vllm_is_not_made_for_the_machine(tmp_path: Path) -> None:
    """A CUDA build of vLLM on a machine without a GPU; where a job was given GPUs, they are missing."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    (tmp_path / "vllm" / "platforms.py").write_text(PLATFORMS, encoding="utf-8")
    done = asked(WHY_NOT + ON_GPUS, tmp_path)
    assert "the installed vLLM is not built for this machine" in done.stdout
    assert done.returncode == 1
    assert "vLLM finds no GPU on" in done.stderr
    assert "(CUDA_VISIBLE_DEVICES=2,3), nor does torch" in done.stderr


@pytest.mark.parametrize("spec", [None, ModuleSpec("vllm", None)])
def test_auto_takes_transformers_where_vllm_is_not_installed(
    spec: ModuleSpec | None, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: spec)  # also where a folder has its name
    load.load(str(folder), None, {})
    assert "(vLLM is not installed)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="engine vllm: vLLM is not installed"):
        load.load(str(folder), None, {"engine": "vllm"})


APART = """
import os; from jobs.engines import load; load._compile_apart(); load._compile_apart()
folder = os.environ["VLLM_CACHE_ROOT"]; assert os.path.isdir(folder); print(folder)
"""


def test_each_process_compiles_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    folders = {asked(APART, tmp_path).stdout.strip() for _ in range(2)}
    assert len(folders - {""}) == 2
    assert not any(Path(folder).exists() for folder in folders), "left behind"
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    assert asked(APART, tmp_path).stdout.strip() == str(tmp_path)


PHASES = """
import os, sys
from jobs.engines import load, vllm
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # as on GPUs: the engine is a process of its own
vllm.LOADED, vllm.POLL = sys.argv[2], 0.1
phases = []
engine = load.load(sys.argv[1], None, {"engine": "vllm"}, phases.append)
engine.close()
print(phases)
"""


@pytest.mark.slow
def test_an_engines_own_process_says_when_it_has_loaded_the_model(folder: Path) -> None:
    """On CPUs nothing is compiled: the message that starts the loading stands for the one that ends it."""
    environ = {**os.environ, "PYTHONPATH": str(CODE), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", PHASES, str(folder), "Starting to load model"],
        env=environ, capture_output=True, encoding="utf-8", check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last == str(["importing vLLM", "loading the model", "compiling"])
    assert "Starting to load model" not in done.stdout + done.stderr, "the log has grown"


@pytest.mark.parametrize(("message", "told"), [(" took 3 s", ["loaded"]), ("", [])])
def test_only_the_message_that_ends_the_loading_counts(message: str, told: list[str]) -> None:
    from jobs.engines.vllm import LOADED, POLL, _told_when_loaded

    found = list[str]()
    with _told_when_loaded(lambda: found.append("loaded")) as arguments:
        config = Path(arguments["logging_config"].pylogging_config_file).read_text(encoding="utf-8")
        log = Path(json.loads(config)["handlers"]["phases"]["filename"])
        log.write_text(f"{LOADED}{message}" if message else "Starting to load model", encoding="utf-8")
        time.sleep(1.5 * POLL)
    assert found == told


def test_vllm_logs_the_message_that_ends_the_loading() -> None:
    """Of its model runners for GPUs, which do not run here."""
    import vllm

    from jobs.engines.vllm import LOADED

    for runner in ("gpu_model_runner.py", "gpu/model_runner.py"):
        source = (Path(vllm.__file__).parent / "v1" / "worker" / runner).read_text(encoding="utf-8")
        assert f'"{LOADED} ' in source


def test_a_users_own_logging_of_vllm_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.envs

    from jobs.engines.vllm import _told_when_loaded

    own = str(tmp_path / "own.json")
    monkeypatch.setitem(vars(vllm.envs), "VLLM_LOGGING_CONFIG_PATH", own)  # vLLM has read the environment
    with _told_when_loaded(lambda: None) as settings:
        assert settings == {}


def test_both_engines_give_the_same_greedy_answers(vllm: Engine, plain: Engine) -> None:
    expected = answers(plain)
    assert answers(vllm) == expected
    assert len({c.text for c in expected}) > 5  # a test on one constant answer would show nothing


def test_an_answer_ends_at_the_end_token_which_is_counted_and_not_shown(tmp_path: Path) -> None:
    engine = load.load(str(tiny.save(tmp_path, says="7.8")), None, {"engine": "transformers"})
    (answer,) = engine.generate([Request("k", engine.encode("<|user|>5<|end|><|assistant|>"), 40)])
    assert answer.ids == [*engine.encode("7.8"), engine.tokenizer.eos_token_id]
    assert (answer.request.key, answer.text, answer.finish) == ("k", "7.8", "stop")


@pytest.mark.parametrize("name", ["vllm", "plain"])
def test_a_seeded_row_does_not_depend_on_its_company(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    every = [Request(i, p, 30, 1.0, 0.9, 20, seed=i) for i, p in enumerate(prompts(engine))]
    together = {c.request.key: c.ids for c in engine.generate(every)}
    alone = {c.request.key: c.ids for r in every[5:8] for c in engine.generate([r])}
    assert alone == {k: together[k] for k in (5, 6, 7)}
    (other,) = engine.generate([Request(5, every[5].prompt, 30, 1.0, 0.9, 20, seed=99)])
    assert other.ids != together[5]


PENALTIES = ({"repetition_penalty": 1.5}, {"presence_penalty": 1.0}, {"frequency_penalty": 0.7})


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda given: next(iter(given)))
def test_penalties_keep_tokens_from_coming_again_in_both_engines_alike(
    penalty: dict[str, float], vllm: Engine, plain: Engine
) -> None:
    without, found = answers(plain), answers(plain, **penalty)

    def repeated(some: list[Completion]) -> int:
        return sum(len(each.ids) - len(set(each.ids)) for each in some)

    assert repeated(found) < repeated(without)
    assert [a.ids for a in found] == [a.ids for a in answers(vllm, **penalty)]


@pytest.mark.parametrize("name", ["vllm", "plain"])
def test_min_p_leaves_out_what_is_less_likely(name: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(name)
    likeliest = [a.ids for a in answers(engine)]
    assert [a.ids for a in answers(engine, temperature=1.0, min_p=1.0)] == likeliest
    assert [a.ids for a in answers(engine, temperature=1.0)] != likeliest


def test_what_is_sampled_without_a_seed_depends_on_the_engines(folder: Path) -> None:
    engines = [load.load(str(folder), None, {"engine": "transformers", "seed": seed}) for seed in (1, 1, 2)]
    first, again, other = ([a.ids for a in answers(each, temperature=1.0)] for each in engines)
    assert first == again != other
    assert [a.ids for a in answers(engines[0], temperature=1.0)] != first, "it draws on"


def test_many_seeded_prompts_at_once_do_not_crash_on_a_cpu(vllm: Engine) -> None:
    # More prompt tokens than one step takes: in pieces, a prompt with a seed would crash vLLM.
    long = [vllm.encode(f"{i:02d}" * 240) for i in range(60)]
    found = list(vllm.generate(Request(i, p, 3, temperature=1.0, seed=i) for i, p in enumerate(long)))
    assert sorted(c.request.key for c in found) == list(range(60))


def test_both_engines_stop_at_the_same_strings(vllm: Engine, plain: Engine) -> None:
    stopped = answers(vllm, until=("a", "7"))
    assert stopped == answers(plain, until=("a", "7"))
    free = answers(vllm)
    for short, long in zip(stopped, free, strict=True):
        ends = [at for s in ("a", "7") if (at := long.text.find(s)) >= 0]
        assert short.text == long.text[: min(ends, default=None)]
        assert len(short.ids) <= len(long.ids)
    assert sum(len(c.ids) for c in stopped) < sum(len(c.ids) for c in free)


def test_scores_agree_and_know_the_greedy_answer(vllm: Engine, plain: Engine) -> None:
    free = answers(plain)
    pairs = [(p, vllm.encode("7 apples")) for p in prompts(vllm)]
    pairs += [(p, c.ids[:5]) for p, c in zip(prompts(vllm), free, strict=True)]
    ours, theirs = vllm.score(pairs), plain.score(pairs)
    assert [g for _, g in ours] == [g for _, g in theirs] == [False] * 40 + [True] * 40
    assert max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True)) < 1e-3


def test_requests_are_drawn_as_places_become_free(vllm: Engine) -> None:
    drawn = 0

    def endless() -> Any:
        nonlocal drawn
        for i in range(2000):
            drawn += 1
            yield Request(i, prompts(vllm, 1)[0], 3)

    for done, _ in enumerate(vllm.generate(endless())):
        if done == 100:
            break
    assert drawn < 1000
    assert [c.request.key for c in vllm.generate([Request("next", prompts(vllm, 1)[0], 3)])] == ["next"]


@pytest.mark.parametrize("special", [True, False])
def test_tags_are_kept_in_the_text_whether_special_or_not(special: bool, tmp_path: Path) -> None:
    model = tiny.save(tmp_path, says="<think>\n2+5</think>7", tags_special=special)
    engine = load.load(str(model), None, {"engine": "transformers"})
    (answer,) = engine.generate([Request(0, engine.encode("<|assistant|>"), 40, thinking=TAGS)])
    assert answer.text == "<think>\n2+5</think>7"
    assert (answer.reasoning, answer.answer) == ("2+5", "7")
    assert (answer.reasoning_tokens, answer.answer_tokens) == (6, 2)


def test_tags_of_many_tokens_are_found_too(tmp_path: Path) -> None:
    says = "<think>2+5</THINK>7"  # no letter twice in what the model was taught
    tokenizer = tiny.tokenizer(tags=False)
    ids = tokenizer(says, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(says)
    tags = Thinking("<think>", "</THINK>")
    assert tags.counts(ids, says, tokenizer.decode) == (18, 1)


def test_mistakes_are_named(tmp_path: Path, plain: Engine) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load.load(str(tmp_path / "nothing"), None, {})
    with pytest.raises(ValueError, match=r"no config\.json"):
        load.load(str(tmp_path), None, {})
    with pytest.raises(ValueError, match=r"100 tokens and an answer of up to 500 .* 512 tokens"):
        list(plain.generate([Request(0, [5] * 100, 500)]))
    with pytest.raises(ValueError, match=r"scoring needs 600 \+ 1 tokens"):
        plain.score([([5] * 600, [5])])


def test_thinking_is_split_where_it_ends() -> None:
    assert TAGS.split(traced("2+5", "7")) == ("2+5", "7", True)
    assert TAGS.split("2+5\n</think>\n\n7", "open") == ("2+5", "7", True)
    assert TAGS.split("<think>\n2+5") == ("2+5", "", False)
    assert TAGS.split("2+5", "open") == ("2+5", "", False)
    assert TAGS.split("    return 7\n") == ("", "    return 7\n", False)
    assert Thinking.of(None).split("<think>") == ("", "<think>", True)
    assert TAGS.split("7 </think>", "closed") == ("", "7 </think>", True)
    assert TAGS.split("<think>\n2+5\n</think>\n\n7", "open") == ("<think>\n2+5", "7", True)
    assert TAGS.state("<|assistant|><think>\n") == "open"
    assert TAGS.state("<think>\n\n</think>\n\n") == "closed"
    assert TAGS.state("what is <think>?<|assistant|>") == "free"
    assert Thinking.of(None).state("<think>") == "free"


def test_stop_strings_hold_in_the_answer_only() -> None:
    text = traced("a\n\nb.", "c.\n\nd")
    assert text[: TAGS.end(text, ["\n\n"])] == traced("a\n\nb.", "c.")
    assert TAGS.end("<think>\na\n\nb", ["\n\n"]) is None
    assert TAGS.end("a\n\nb", ["\n\n"], "open") is None
    assert TAGS.end("a\n\nb", ["\n\n"]) == 1
    assert TAGS.end("abc", []) is None
