"""The columns of the results table, and warnings about its numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from jobs.core.plain import CONTROLS
from jobs.core.secrets import hide

COLUMNS = {
    "student": "str",
    "size": "str",
    "share": "float64",  # fraction of reasoning rows in the student's training data
    "order": "str",
    "seed": "Int64",
    "recipe": "str",  # what tells the training from others of the same size, share, order and seed; mostly ""
    "benchmark": "str",
    "domain": "str",
    "format": "str",
    "metric": "str",  # "metric,filter", as in lm-eval
    "accuracy": "float64",
    "stderr": "float64",
    "n": "Int64",
    "parameters": "float64",  # active for a token, embeddings included
    "training_tokens": "float64",
    "training_flops": "float64",  # model FLOPs of training the student alone
    "passes": "float64",  # over the rows, of a training with a budget of FLOPs
    "teacher_ift_flops": "float64",  # of generating all plain answers, and all reasoning, in training data
    "teacher_reasoning_flops": "float64",
    "inference_flops": "float64",  # per item
    "output_tokens": "float64",  # per item, including reasoning
    "reasoning_tokens": "float64",
    "task_version": "str",
    "source": "str",  # the file, relative to the collected folder
    "within": "str",  # another benchmark with some of the same items, where means count them
}
UNPRINTABLE = re.compile(rf"[\n\t]|{CONTROLS.pattern}")
LONGEST_NAME = 1000


class DataWarning(UserWarning):
    """A doubt about the results that readers of the numbers must know."""


def warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=3)


def few(names: Iterable[str], most: int = 8) -> str:
    """Join the first names in one line, with the number of further ones."""
    listed = list(dict.fromkeys(names))
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def plain(name: object) -> str:
    """Make a name from an external file printable: one line, no control characters, no secrets."""
    text = UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", hide(str(name))).strip()
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
