"""The study file: its schema and the presets it names, with all mistakes reported at once.

Decisions about what is to be done are in plan.py.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from launch.study.crosscheck import ALIAS, crosscheck, repeated
from launch.study.filters import Filters
from launch.study.model import Model
from launch.study.presets import (
    CONFIGS,
    SHOWN,
    Count,
    Mistake,
    Name,
    OneOrMore,
    Positive,
    Real,
    Strict,
    StudyError,
    Text,
    Whole,
    is_file_name,
    known_names,
    listed,
    located,
    read_yaml,
    shown,
    validate,
)
from launch.study.recipes import Recipe, recipes
from launch.study.rows import Columns
from launch.study.sampling import Modes, Sampling, Share
from launch.study.serving import serving_faults
from launch.study.shapes import heads_fault, shape_faults
from launch.study.textfile import is_file
from launch.study.yamlfile import Document

Seed = Annotated[Whole, Field(ge=0, lt=2**32)]  # what numpy, torch and vLLM all accept
Beta = Annotated[Real, Field(ge=0, lt=1)]
TASK = r"^[^./][^/]*$"  # a task's name is also that of a folder


class Prepare(Strict):
    """A function that makes the study's inputs, below `@prepare/`, before all other stages."""

    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    """The function, as MODULE:NAME; it is called with the folder to write to, `args` and a progress meter.
    Example: `jobs.toy:prepare`."""
    args: dict[str, Any] = Field(default={})
    """Its arguments, checked if the function annotates them with a TypedDict. Example: `{seed: 0}`."""
    hours: Positive = 1.0
    """Time limit, in hours."""


class Source(Strict):
    """A source of rows: a local file, or a dataset of a hub at a revision."""

    path: Text | None = None
    """File of rows: JSON Lines or one JSON array, in UTF-8, also as .gz or .zst, or Parquet; `@prepare/…` is
    a file that the `prepare` function makes. Give either it or `dataset`.
    Examples: `rows.jsonl`, `"@prepare/prompts.jsonl"`."""
    dataset: Text | None = None
    """Dataset on the hub; needs a `revision`. Example: `Scale-or-Reason/math-reasoning-ift-pairs`."""
    subset: Text | None = None
    """Configuration of the dataset, where it has several."""
    revision: Text | None = None
    """Commit, tag or branch of the dataset; a commit cannot change.
    Example: `b6f8168a6564de238a459f647a7f928e95876c78`."""
    split: Text = "train"
    """Split of the dataset."""
    column: Text = "prompt"
    """Column of prompts: texts, or chats, whose first question is the prompt. Example: `messages`."""
    columns: Columns | None = None
    """Columns of pairs, where they are not `prompt`, `reasoning` and `ift`.
    Example: `{prompt: problem, reasoning: generations, ift: solution}`."""
    turns: Literal["first"] | None = None
    """What becomes of chats with several turns: `first` takes the first question and its answer. Without it,
    they are refused."""
    system: Literal["ignore"] | None = None
    """What becomes of system messages, without which students are asked: `ignore` leaves them out. Without
    it, they are refused."""
    reference: Text | None = None
    """Column of the reference answers, with which `filters.correct` compares: results, or solutions that end
    with one (`\\boxed{…}`, `#### …`). Example: `answer`."""
    count: Count | None = None
    """Rows to draw, without replacement; without it, all. Estimates need it. Example: `3400`."""
    seed: Seed = 0
    """Seed of that draw."""

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either 'path' (a JSONL or Parquet file) or 'dataset' (a hub's name)")
        if self.dataset is not None and self.revision is None:
            message = "needs a 'revision', or the data may change under you"
            raise ValueError(f"'dataset: {self.dataset}' {message}")
        return self


class Mixtures(Strict):
    """Mixtures of plain answers and answers with reasoning; each student learns each, with each seed. A list
    of mappings gives some shares other orders than the rest."""

    shares: OneOrMore[Share]
    """Shares of rows with reasoning, from 0 (plain answers only) to 1. Example: `[0, 0.25, 0.5, 0.75, 1]`."""
    order: OneOrMore[Literal["sequential", "shuffled"]] = ("sequential",)
    """Plain answers first and reasoning after, or both shuffled."""


class Recipes(Strict):
    """Training settings. Each student is trained with every combination of the values in lists. A list of
    mappings names combinations one by one. Only the first combination adds nothing to a student's name: add
    values at the end of a list, else students that are trained already are trained again."""

    learning_rate: OneOrMore[Positive | None] = (None,)
    """Peak learning rate, after the warmup; null: that of each student's preset. Example: `[null, 1e-5]`."""
    epochs: OneOrMore[Count] | None = None
    """Passes over the rows; 1 without it. Example: `[1, 2, 4]`."""
    flops: OneOrMore[Positive] | None = None
    """Training FLOPs, instead of `epochs`: rows are repeated, and the last pass is cut, so that each student
    takes as many, to the nearest block. Example: `[1e19, 3e19, 1e20]`."""
    batch: OneOrMore[Count] = (32,)
    """Blocks of an optimizer step, over all processes; times `block`, its tokens."""
    block: OneOrMore[Count] = (4096,)
    """Tokens of a packed block; prompts with a longer row in either mode are dropped."""
    warmup: OneOrMore[Share] = (0.03,)
    """Share of the steps in which the learning rate rises to its peak."""
    schedule: OneOrMore[Literal["cosine", "linear", "constant", "wsd"]] = ("cosine",)
    """Learning rate after the warmup: falls to 0 along a cosine or a line, stays constant, or (`wsd`) stays
    constant and falls to 0 at the end. With `wsd`, all values of `flops` have the warmup of the smallest, and
    a training continues from that of the next smaller one, unless its mixture is sequential."""
    cooldown: OneOrMore[Annotated[Real, Field(gt=0, le=1)]] = (0.2,)
    """Share of the steps, at the end, in which `wsd` lowers the learning rate."""
    weight_decay: OneOrMore[Annotated[Real, Field(ge=0)]] = (0.0,)
    """Weight decay of AdamW."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of AdamW's two averages."""
    clip: OneOrMore[Positive] = (1.0,)
    """Norm to which gradients are clipped."""
    dtype: OneOrMore[Literal["bf16", "fp32"]] = ("bf16",)
    """Precision of the training's arithmetic and of the trained weights."""

    @model_validator(mode="after")
    def _one_length(self) -> Recipes:
        if self.epochs and self.flops:
            raise ValueError("'flops' decide how often rows are read: leave out 'epochs' or 'flops'")
        if "wsd" not in self.schedule:
            if self.cooldown != Recipes.model_fields["cooldown"].default:
                raise ValueError("'cooldown' is that of 'schedule: wsd', which is not named")
        elif max(self.warmup) + max(self.cooldown) > 1:
            raise ValueError("'warmup' and 'cooldown' are more than all steps together")
        return self


class Task(Strict):
    """One benchmark, as lm-eval names it, and which of its metrics counts."""

    task: Annotated[Text, Field(pattern=TASK, max_length=200, json_schema_extra={"pattern": TASK})]
    """Name of the task in lm-eval, or in the group's `include`. Example: `gsm8k_cot_zeroshot`."""
    metric: Text = "exact_match"
    """Metric that counts, as lm-eval's results name it. Example: `prompt_level_strict_acc`."""
    filter: Text = "none"
    """Filter that answers pass before the metric, as lm-eval names it. Example: `flexible-extract`."""
    fewshot: Annotated[Whole, Field(ge=0, le=1000)] = 0
    """Solved examples before each question."""
    limit: Count | None = None
    """Items to ask, from the first one; without it, all. Example: `200`."""
    items: Count
    """Items that the benchmark has; only estimates use it. Example: `1319`."""
    choices: Annotated[Whole, Field(gt=1, le=1000)] | None = None
    """Choices of each item, where their likelihoods are compared; only estimates use it. Without it, they
    count generated answers. Example: `4`."""


def _each_once(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    if again := repeated(task.task for task in tasks):
        raise ValueError(f"named more than once: {', '.join(again)}; {ALIAS}")
    return tasks


class EvalGroup(Strict):
    """Benchmarks of one domain and format, evaluated together: a file in configs/evals, or your own."""

    name: Name
    """Name in units and tables: up to 60 letters, digits, `.`, `_` and `-`. Without it, the file's name."""
    domain: Literal["general", "math"]
    """Domain, by which the report groups benchmarks."""
    format: Literal["multiple-choice", "open-ended"]
    """Format of the questions, by which the report groups benchmarks."""
    include: Text | None = None
    """Folder with your own task files, instead of lm-eval's tasks: a full path, a path in the code's
    folder, or `@prepare/…`. Examples: `configs/evals/tasks`, `"@prepare/benchmarks"`."""
    max_tokens: Count
    """Tokens of an answer, at most, its reasoning included. Example: `16384`."""
    sampling: Sampling = Sampling()
    """How students sample their answers."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1), AfterValidator(_each_once)]
    """The benchmarks, each once."""


class Expect(Strict):
    """Mean tokens of a row, for estimates before the data exists."""

    prompt: Count
    """Tokens of a prompt. Example: `150`."""
    ift: Count
    """Tokens of a plain answer. Example: `500`."""
    reasoning: Count
    """Tokens of an answer with its reasoning. Example: `3300`."""


class Study(Strict):
    """A study: teacher, students, mixtures and benchmarks; presets are named by their files."""

    # `load_study` has read the presets: here are models and groups where the file has names.
    name: Name
    """Name of the study and of its run directory: up to 60 letters, digits, `.`, `_` and `-`. Without it, the
    file's name. Example: `my-study`."""
    prepare: Prepare | None = None
    teacher: Model | None = None
    """Model that answers the prompts. Give it with `prompts` and `modes`, or give `pairs`."""
    prompts: OneOrMore[Source] | None = None
    """Sources of prompts; blank and repeated ones are left out."""
    modes: Modes | None = None
    pairs: OneOrMore[Source] | None = None
    """Sources of prompts with both answers, instead of `teacher`, `prompts` and `modes`."""
    filters: Filters | None = None
    students: Annotated[tuple[Model, ...], Field(min_length=1)]
    """Models to train, of several sizes. Example: `[qwen2.5-0.5b, qwen2.5-7b]`."""
    mixtures: OneOrMore[Mixtures]
    training: OneOrMore[Recipes] = (Recipes(),)
    benchmarks: Annotated[tuple[EvalGroup, ...], Field(min_length=1)]
    """Groups of benchmarks that each student is evaluated on. Example: `math-open-ended`."""
    seeds: OneOrMore[Seed] = (0,)
    """Seeds of mixtures and trainings. The first one also seeds generation. Example: `[0, 1, 2]`."""
    expect: Expect

    @model_validator(mode="after")
    def _rows_from_somewhere(self) -> Study:
        generated = (self.teacher, self.prompts, self.modes)
        if self.pairs is None and None in generated:
            raise ValueError(
                "give 'teacher', 'prompts' and 'modes' to generate answers, or 'pairs' to read them"
            )
        if self.pairs is not None and generated != (None, None, None):
            raise ValueError("'pairs' are already answered: leave out 'teacher', 'prompts' and 'modes'")
        return self

    @cached_property
    def recipes(self) -> list[Recipe]:
        """The recipes with which each student is trained."""
        return recipes(self.training)

    def recipes_of(self, student: Model) -> list[Recipe]:
        """Return the recipes that are different trainings of a student.

        One that names the learning rate of its preset is the same as one that leaves it out.
        """
        assert student.training is not None  # the study was checked
        preset = student.training.learning_rate
        found = dict[Recipe, Recipe]()
        for recipe in self.recipes:
            found.setdefault(replace(recipe, learning_rate=recipe.learning_rate or preset), recipe)
        return list(found.values())

    @cached_property
    def mixed(self) -> list[tuple[float, str]]:
        """The mixtures of each student: shares, each with an order. One kind of answers has none: the first
        one stands for it."""
        first = self.mixtures[0].order[0]
        every = [(share, order) for m in self.mixtures for share in m.shares for order in m.order]
        return list(dict.fromkeys((s, order if 0 < s < 1 else first) for s, order in every))


PRESETS = {"teacher": "models", "students": "models", "benchmarks": "evals"}


def find_study(name: str) -> Path | None:
    """Return the file of a study, given as a path or as a name in configs/studies."""
    for path in (Path(name), CONFIGS / "studies" / f"{name}.yaml"):
        if is_file(path):
            return path
    return None


def load_study(name: str) -> Study:
    """Read a study, a YAML path or a name in configs/studies; see `read_study`."""
    file = find_study(name)
    if file is None:
        known = ", ".join(known_names("studies"))
        words = f"no such study: neither a YAML file, nor a study that was submitted, nor one of {known}"
        raise StudyError([Mistake(Path(name), "", words)])
    return read_study(read_yaml(file), file)


def read_study(document: Document, file: Path) -> Study:
    """Read a study from the contents of a file, with the presets it names.

    Raises:
        StudyError: with every mistake in every file.
    """
    mistakes = list[Mistake]()
    for key in PRESETS:
        if document.data.get(key) is not None:
            document.data[key] = _presets(file, key, document.data[key], mistakes)
    mistakes = located(mistakes, document, file)
    try:
        study = validate(Study, document, file)
    except StudyError as error:  # mistakes in presets are already listed
        more = [m for m in error.mistakes if not mistakes or m.key.partition(".")[0] not in PRESETS]
        raise StudyError([*mistakes, *more]) from None
    mistakes += located(crosscheck(study, file), document, file)
    if mistakes:
        raise StudyError(mistakes)
    return study


def _presets(file: Path, key: str, names: Any, mistakes: list[Mistake]) -> Any:
    """Read the presets named under a key of a study file; mistakes are added to `mistakes`."""
    found = []
    for name in listed(names):
        try:
            found.append(_preset(file, key, name))
        except StudyError as error:
            mistakes += error.mistakes
    return found[0] if key == "teacher" and found else tuple(found)


def _preset(file: Path, key: str, name: Any) -> Strict:
    folder = PRESETS[key]
    path = CONFIGS / folder / f"{name}.yaml"
    if isinstance(name, str) and is_file_name(name):  # the user's own preset, next to the study
        path = file.parent / name
    if not isinstance(name, str) or not is_file(path):
        near = difflib.get_close_matches(str(name)[:SHOWN], known_names(folder), 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        message = (
            f"{shown(name)} has no preset; {hint}configs/{folder} holds {', '.join(known_names(folder))}"
        )
        raise StudyError([Mistake(file, key, message)])
    document = read_yaml(path)
    if folder == "evals":
        return validate(EvalGroup, document, path)
    model = validate(Model, document, path)
    faults = shape_faults(model.architecture, measured=model.flops is not None)
    wrong = [Mistake(path, f"architecture.{at}", words) for at, words in faults]
    if model.training and (why := heads_fault(model.architecture, model.training.sequence_parallel)):
        wrong.append(Mistake(path, "training.sequence_parallel", why))
    if not wrong:  # splitting needs a model that can be built
        wrong += [Mistake(path, f"serving.{at}", why) for at, why in serving_faults(model)]
    if wrong:
        raise StudyError(located(wrong, document, path))
    return model
