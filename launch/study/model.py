"""The model file: a preset for a teacher, a student, or both."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from launch.study.endpoint import ENGINE, Endpoint
from launch.study.presets import Count, Name, Positive, Strict, Text, Whole, shown

AUTO: Final = "auto"  # the fastest value that fits on the GPUs
Some = Annotated[Whole, Field(gt=0, le=100_000)]  # nodes, processes, cores
Gpus = Annotated[Whole, Field(ge=0, le=1000)]
MOST = 10**12  # blocks


def _number_or_auto(value: Any, least: int, most: int) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    whole = whole or (isinstance(value, float) and value.is_integer())
    if value == AUTO or (whole and least <= value <= most):
        return value if value == AUTO else int(value)
    numbers = f"from {least} to {most}" if most < MOST else f"from {least}"
    raise ValueError(f"found {shown(value)}; a whole number {numbers}, or auto, is needed")


def _blocks(value: Any) -> Any:
    return _number_or_auto(value, 1, MOST)


def _stage(value: Any) -> Any:
    return None if value is None else _number_or_auto(value, 0, 3)


def _switch(value: Any) -> Any:
    if isinstance(value, bool) or value == AUTO:
        return value
    raise ValueError(f"found {shown(value)}; true, false or auto is needed, without quotes")


# One validator each, and its JSON Schema: of a union, pydantic would report a mistake for each part.
def _or_auto(*schemas: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*schemas, {"const": AUTO}]})


Blocks = Annotated[
    int | Literal["auto"],
    PlainValidator(_blocks),
    _or_auto({"type": "integer", "minimum": 1, "maximum": MOST}),
]
Stage = Annotated[
    int | Literal["auto"] | None,
    PlainValidator(_stage),
    _or_auto({"type": "integer", "minimum": 0, "maximum": 3}, {"type": "null"}),
]
Switch = Annotated[bool | Literal["auto"], PlainValidator(_switch), _or_auto({"type": "boolean"})]


class Thinking(Strict):
    """The tags around a reasoning trace; both empty for a model that writes none."""

    open: str = "<think>"
    """Tag before the trace."""
    close: str = "</think>"
    """Tag after the trace, before the answer."""

    @model_validator(mode="after")
    def _a_pair(self) -> Thinking:
        if bool(self.open) != bool(self.close) or (self.open and self.open == self.close):
            found = f"found {self.open!r} and {self.close!r}"
            raise ValueError(f"{found}; 'open' and 'close' are two unlike tags, or both are empty")
        return self


class Training(Strict):
    """How a student is trained: learning rate, memory, speed. A model without it can only teach."""

    learning_rate: Positive
    """Peak learning rate, after the warmup. Example: `2e-5`."""
    micro_batch: Blocks = 1
    """Blocks in one forward pass of a process. `batch` is a multiple of it times all processes, or all groups
    of `sequence_parallel`. `auto`, for this and the next two keys: the fastest values with which the training
    fits on its GPUs, as `sor plan` shows them."""
    zero: Stage = None
    """DeepSpeed's ZeRO stage, as in configs/deepspeed; without it, DeepSpeed is not used."""
    gradient_checkpointing: Switch = False
    """Whether activations are recomputed in the backward pass: less memory, more time."""
    sequence_parallel: Some | None = None
    """Processes of a node that share the tokens of each block, for blocks too long for one GPU; divides the
    processes of a node and the model's attention heads. Without it, none are shared. Example: `4`."""
    nodes: Some = 1
    """Nodes of the job."""
    tasks_per_node: Some = 1
    """Processes on each node, where there is no GPU; with GPUs, there is one for each."""
    gpus_per_node: Gpus = 0
    """GPUs on each node; 0 trains on cores. If the cluster file says how many GPUs its nodes have, the same
    number of GPUs in all is spread over nodes of that size."""
    cpus: Some = 1
    """Cores of each process, where there is no GPU; with GPUs, the cluster's `cpus_per_gpu`."""

    @model_validator(mode="after")
    def _groups_within_a_node(self) -> Training:
        processes, kind = (
            (self.gpus_per_node, "GPUs") if self.gpus_per_node else (self.tasks_per_node, "tasks")
        )
        if processes % (self.sequence_parallel or 1):
            found = f"found 'sequence_parallel: {self.sequence_parallel}', which does not divide"
            raise ValueError(f"{found} the {processes} {kind} of a node")
        return self

    @model_validator(mode="after")
    def _auto_on_gpus(self) -> Training:
        chosen = [
            key for key in ("micro_batch", "zero", "gradient_checkpointing") if getattr(self, key) == AUTO
        ]
        if chosen and not self.gpus_per_node:
            raise ValueError(f"'{chosen[0]}: auto' needs GPUs ('gpus_per_node'); without them, say a value")
        return self


class Serving(Endpoint):
    """How the model generates, as a teacher and in evaluations: engine, GPUs, copies that share the work."""

    max_model_len: Count | None = None
    """Tokens of a prompt with its answer, at most; without it, the model's context. Example: `20480`."""
    nodes: Some = 1
    """Nodes that one engine is spread over: layers are shared within a node (tensor parallelism), and nodes
    hold groups of layers (pipeline parallelism), unless `vllm` says otherwise. Example: `2`."""
    gpus: Gpus = 0
    """GPUs of one engine on each of its nodes; 0 generates on cores. If the cluster file says that its nodes
    have fewer, the same number of GPUs in all is spread over nodes of that size."""
    replicas: Some = 1
    """Engines side by side in each job of a teacher, on one node, each with its own `gpus`; they share the
    prompts. Example: `4`."""
    workers: Some = 1
    """Jobs of a teacher that share the prompts. Example: `16`."""
    cpus: Some = 1
    """Cores of an engine on each node, where there is no GPU; with GPUs, the cluster's `cpus_per_gpu`."""
    vllm: dict[str, Any] = Field(default={})
    """Engine arguments of vLLM, as its `EngineArgs` names them. Those that change results, as quantization
    does, make units new; those of speed and memory do not.
    Example: `{enable_expert_parallel: true, gpu_memory_utilization: 0.95}`."""

    @model_validator(mode="after")
    def _nothing_here(self) -> Serving:
        local = {"gpus": 0, "nodes": 1, "replicas": 1, "vllm": {}}
        found = [key for key, none in local.items() if getattr(self, key) != none]
        if self.engine == ENGINE and found:
            raise ValueError(f"'{found[0]}' is for engines here; with 'engine: openai', leave it out")
        return self


class Window(Strict):
    """Layers that attend in a sliding window."""

    window: Count
    """Tokens that a query attends to, its own among them. Example: `4096`."""
    per_pair: Count
    """FLOPs of a query-key pair, over all layers with this window."""


class Flops(Strict):
    """FLOPs of a model of another family; `sor init FILE --model MODEL` measures and writes them. A forward
    pass over n tokens takes (`per_token` + `per_output`)·n + `per_pair`·n²."""

    per_token: Count
    """FLOPs of all layers for a token, without attention's products of queries, keys and values."""
    per_output: Count
    """FLOPs of the output layer for a token."""
    per_pair: Annotated[Whole, Field(ge=0, le=10**12)]
    """FLOPs of a query-key pair, over all layers without a window."""
    windows: tuple[Window, ...] = ()
    """The same for layers with a sliding window. Example: `[{window: 4096, per_pair: 122880}]`."""
    parameters: Count
    """All parameters; tied ones count once."""
    active_parameters: Count
    """Parameters that one token passes: fewer than all only with experts."""


class Model(Strict):
    """A model, as a teacher, a student, or both: a file in configs/models, or your own."""

    name: Name
    """Name in units and tables: up to 60 letters, digits, `.`, `_` and `-`. Without it, the file's name."""
    size: Text
    """Size, as tables and figures show it. Example: `1.5B`."""
    model: Text | None = None
    """Weights: a name on the hub, a folder, or `@prepare/…` of the study's `prepare` function. Needed unless
    `init: random`. Examples: `Qwen/Qwen2.5-1.5B`, `"@prepare/teacher"`."""
    revision: Text | None = None
    """Commit, tag or branch of `model` on the hub; a commit cannot change."""
    tokenizer: Text | None = None
    """Tokenizer, if not that of `model`: a name on the hub, a folder, or `@prepare/…`. Students that name the
    same one share their tokens. Example: `Qwen/Qwen2.5-0.5B`."""
    tokenizer_revision: Text | None = None
    """Commit, tag or branch of `tokenizer` on the hub."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Whether a student starts from the weights of `model`, or from random ones; those need a `tokenizer`."""
    architecture: dict[str, Any]
    """The model's `config.json`, or its keys that decide shapes: FLOPs and memory are counted from it before
    anything is downloaded, and random weights are drawn from it. Other families need `flops`."""
    flops: Flops | None = None
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
    def shape(self) -> dict[str, Any]:
        """The architecture, with the FLOPs that were measured: what `jobs.core.flops` counts from."""
        measured = {"flops": self.flops.model_dump(mode="json")} if self.flops else {}
        return {**self.architecture, **measured}

    @property
    def endpoint(self) -> dict[str, Any] | None:
        """What a worker needs to know of the endpoint that serves the model; None if it is loaded."""
        serving = self.serving
        if serving.engine != ENGINE:
            return None
        tokenizer, revision = self.tokens_with
        return {
            "url": serving.url,
            "model": serving.model or self.model or self.name,
            "key": serving.key,
            "requests": max(1, serving.requests // serving.workers),
            "per_minute": serving.per_minute and serving.per_minute / serving.workers,
            "prompt": serving.prompt,
            "body": serving.body,
            "tokenizer": tokenizer,
            "revision": revision,
            "architecture": self.shape,
        }

    @property
    def tokens_with(self) -> tuple[str, str | None]:
        """The location and revision of the tokenizer: its own, or those of the weights."""
        found = (self.tokenizer, self.tokenizer_revision) if self.tokenizer else (self.model, self.revision)
        assert found[0] is not None
        return found[0], found[1]
