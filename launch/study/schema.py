"""The study file: its schema and the presets it names, with all mistakes reported at once.

Decisions about what is to be done are in plan.py.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from launch.study.crosscheck import ALIAS, crosscheck, repeated
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
    known_names,
    listed,
    located,
    read_yaml,
    shown,
    validate,
)
from launch.study.shapes import shape_faults
from launch.study.textfile import is_file

# Minus zero becomes zero: otherwise one share would have two names.
Share = Annotated[Real, Field(ge=0, le=1), AfterValidator(lambda share: share + 0.0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]  # what numpy, torch and vLLM all accept
Beta = Annotated[Real, Field(ge=0, lt=1)]
Some = Annotated[Whole, Field(gt=0, le=100_000)]  # nodes, processes, cores


class Prepare(Strict):
    """Work before all other stages, by the user's own function; `hours` is its time limit."""

    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]  # module:function
    args: dict[str, Any] = Field(default={})
    hours: Positive = 1.0


class Source(Strict):
    """A source of texts: a local file, or a dataset of a hub at a revision."""

    path: Text | None = None
    dataset: Text | None = None
    subset: Text | None = None
    revision: Text | None = None
    split: Text = "train"
    column: Text = "prompt"
    count: Count | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either 'path' (a JSONL or Parquet file) or 'dataset' (a hub's name)")
        if self.dataset is not None and self.revision is None:
            message = "needs a 'revision', or the data may change under you"
            raise ValueError(f"'dataset: {self.dataset}' {message}")
        return self


class Sampling(Strict):
    """How tokens are sampled; temperature 0 takes the likeliest one."""

    temperature: Annotated[Real, Field(ge=0)] = 0.0
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Whole, Field(ge=-1)] = -1


class Mode(Sampling):
    """One of the teacher's two answer modes: chat template arguments and sampling."""

    chat_template_kwargs: dict[str, Any]
    max_tokens: Count


class Modes(Strict):
    """Plain answers (instruction fine-tuning data) and answers with reasoning."""

    ift: Mode
    reasoning: Mode


class Thinking(Strict):
    """The tags around a reasoning trace; both empty for a model that writes none."""

    open: str = "<think>"
    close: str = "</think>"

    @model_validator(mode="after")
    def _a_pair(self) -> Thinking:
        if bool(self.open) != bool(self.close) or (self.open and self.open == self.close):
            found = f"found {self.open!r} and {self.close!r}"
            raise ValueError(f"{found}; 'open' and 'close' are two unlike tags, or both are empty")
        return self


class Training(Strict):
    """Model-specific training settings: size, memory, speed."""

    learning_rate: Positive
    micro_batch: Count = 1
    zero: Annotated[Whole, Field(ge=0, le=3)] | None = None
    gradient_checkpointing: bool = False
    nodes: Some = 1
    tasks_per_node: Some = 1
    gpus_per_node: Annotated[Whole, Field(ge=0, le=1000)] = 0
    cpus: Some = 1  # per task, where there is no GPU


class Serving(Strict):
    """How one model generates: engine, GPUs it is spread over, independent workers that share the work."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    max_model_len: Count | None = None
    nodes: Some = 1
    gpus: Annotated[Whole, Field(ge=0, le=1000)] = 0  # per worker and node
    workers: Some = 1
    cpus: Some = 1  # where there is no GPU


class Model(Strict):
    """A preset from configs/models: a teacher, a student, or both.

    With `init: random` the weights are drawn from `architecture`; otherwise `model` is loaded, and
    `architecture` serves to count FLOPs before anything is downloaded.
    """

    name: Name
    size: Text
    model: Text | None = None
    revision: Text | None = None
    tokenizer: Text | None = None
    tokenizer_revision: Text | None = None
    init: Literal["pretrained", "random"] = "pretrained"
    architecture: dict[str, Any]
    thinking: Thinking = Thinking()
    training: Training | None = None
    serving: Serving = Serving()

    @model_validator(mode="after")
    def _has_weights(self) -> Model:
        if self.init == "pretrained" and self.model is None:
            raise ValueError("'model' is missing: a hub's name, a folder, or @prepare/… (or 'init: random')")
        if self.init == "random" and self.tokenizer is None:
            raise ValueError("'init: random' needs a 'tokenizer': a hub's name, a folder, or @prepare/…")
        return self

    @property
    def tokens_with(self) -> tuple[str, str | None]:
        """The location and revision of the tokenizer: its own, or those of the weights."""
        found = (self.tokenizer, self.tokenizer_revision) if self.tokenizer else (self.model, self.revision)
        assert found[0] is not None
        return found[0], found[1]


class Mixtures(Strict):
    """The mixtures to train on: shares of reasoning rows and their orders, each with every seed."""

    shares: OneOrMore[Share]
    order: OneOrMore[Literal["sequential", "shuffled"]] = ("sequential",)


class Recipe(Strict):
    """Training settings of all students; `batch` times `block` is the tokens of a step."""

    epochs: Count = 1
    batch: Count = 32  # blocks per optimizer step
    block: Count = 4096  # tokens per packed block
    warmup: Share = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip: Positive = 1.0
    dtype: Literal["bf16", "fp32"] = "bf16"


class Task(Strict):
    """One benchmark, as lm-eval names it, and which of its metrics counts."""

    task: Annotated[Text, Field(pattern=r"^[^./][^/]*$", max_length=200)]  # also names a folder
    metric: Text = "exact_match"
    filter: Text = "none"
    fewshot: Annotated[Whole, Field(ge=0, le=1000)] = 0
    limit: Count | None = None
    items: Count  # how many it has, for estimates
    choices: Annotated[Whole, Field(gt=1, le=1000)] | None = None


def _each_once(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    if again := repeated(task.task for task in tasks):
        raise ValueError(f"named more than once: {', '.join(again)}; {ALIAS}")
    return tasks


class EvalGroup(Strict):
    """A preset from configs/evals: benchmarks of one domain and format, evaluated together."""

    name: Name
    domain: Literal["general", "math"]
    format: Literal["multiple-choice", "open-ended"]
    include: Text | None = None
    max_tokens: Count
    sampling: Sampling = Sampling()
    tasks: Annotated[tuple[Task, ...], Field(min_length=1), AfterValidator(_each_once)]


class Expect(Strict):
    """Mean tokens per row, for estimates before the data exists."""

    prompt: Count
    ift: Count
    reasoning: Count


class Study(Strict):
    """A study with its presets filled in."""

    name: Name
    prepare: Prepare | None = None
    teacher: Model | None = None
    prompts: OneOrMore[Source] | None = None
    modes: Modes | None = None
    pairs: OneOrMore[Source] | None = None
    students: Annotated[tuple[Model, ...], Field(min_length=1)]
    mixtures: Mixtures
    training: Recipe = Recipe()
    benchmarks: Annotated[tuple[EvalGroup, ...], Field(min_length=1)]
    seeds: OneOrMore[Seed] = (0,)
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


PRESETS = {"teacher": "models", "students": "models", "benchmarks": "evals"}


def find_study(name: str) -> Path | None:
    """Return the file of a study, given as a path or as a name in configs/studies."""
    for path in (Path(name), CONFIGS / "studies" / f"{name}.yaml"):
        if is_file(path):
            return path
    return None


def load_study(name: str) -> Study:
    """Read a study, a YAML path or a name in configs/studies, and the presets it names.

    Raises:
        StudyError: with every mistake in every file.
    """
    file = find_study(name)
    if file is None:
        known = ", ".join(known_names("studies"))
        words = f"no such study: neither a YAML file, nor a study that was submitted, nor one of {known}"
        raise StudyError([Mistake(Path(name), "", words)])
    document, mistakes = read_yaml(file), list[Mistake]()
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
    if isinstance(name, str) and name.endswith(".yaml"):  # the user's own preset, next to the study
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
    wrong = [Mistake(path, f"architecture.{at}", words) for at, words in shape_faults(model.architecture)]
    if wrong:
        raise StudyError(located(wrong, document, path))
    return model
