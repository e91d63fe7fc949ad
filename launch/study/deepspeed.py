"""DeepSpeed's configuration for a ZeRO stage: the files in configs/deepspeed."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from launch.study.presets import CONFIGS


@cache
def deepspeed(stage: int | None) -> dict[str, Any] | None:
    """Return DeepSpeed's configuration for a ZeRO stage; None without one."""
    if stage is None:
        return None
    text = (CONFIGS / "deepspeed" / f"zero{stage}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
