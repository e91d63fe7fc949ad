"""The columns of the results table, and the warnings that are given about its numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from jobs.core.plain import CONTROLS
from jobs.core.secrets import hide

COLUMNS = {
    "student": "str",
    "size": "str",
    "share": "float64",  # of reasoning rows in what the student was trained on
    "order": "str",
    "seed": "Int64",
    "benchmark": "str",
    "domain": "str",
    "format": "str",
    "metric": "str",  # "metric,filter", as lm-eval writes it
    "accuracy": "float64",
    "stderr": "float64",
    "n": "Int64",
    "training_flops": "float64",  # model FLOPs of training the student alone
    "teacher_ift_flops": "float64",  # of making all plain answers, and all reasoning, that were trained on
    "teacher_reasoning_flops": "float64",
    "inference_flops": "float64",  # per item
    "output_tokens": "float64",  # per item, reasoning included
    "reasoning_tokens": "float64",
    "task_version": "str",
    "source": "str",  # the file, relative to the folder that was collected
    "within": "str",  # another benchmark that holds some of the same items: means count them there only
}
UNPRINTABLE = re.compile(rf"[\n\t]|{CONTROLS.pattern}")
LONGEST_NAME = 1000


class DataWarning(UserWarning):
    """Something about the results that whoever reads their numbers must know."""


def warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)


def few(names: Iterable[str], most: int = 8) -> str:
    """Names in one line: the first ones, and how many more there are."""
    listed = list(dict.fromkeys(names))
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def plain(name: object) -> str:
    """A name from somebody's file as it can be printed, drawn and written: one line, no control character,
    no secret."""
    text = UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", hide(str(name))).strip()
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
