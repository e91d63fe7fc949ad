"""Make untrusted text safe to show: no secrets, and nothing that a terminal would act on.

Names, errors, keys, logs and a model's answers are data. Markup in them is not interpreted, and no escape
sequence, control character or change of writing direction reaches a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from jobs.core.secrets import hide

# Colors, titles and the like.
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(\x07|\x1b\\)?|.)?", re.DOTALL)
# The remaining C0 and C1 controls, and characters that reorder or break the surrounding text.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    """Return untrusted text as one line."""
    return "".join(c if c.isprintable() else " " for c in ESCAPES.sub("", hide(text)))


def printable(text: str) -> str:
    """Return untrusted text with its line breaks; carriage returns start a new line."""
    lines = re.sub(r"\r+\n?", "\n", ESCAPES.sub("", hide(text)))
    return CONTROLS.sub("", lines)


def say(text: str, *, error: bool = False) -> None:
    """Print lines that may contain untrusted text.

    Args:
        error: Print to standard error.
    """
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


class PlainConsole(Console):
    """Console that takes all text literally: no markup, colors or emoji are interpreted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert untrusted text to rich's Text."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield rich's segments, with control characters removed from text segments."""
        if isinstance(renderable, Text) and (shown := hide(renderable.plain)) != renderable.plain:
            renderable = Text(
                shown, renderable.style, justify=renderable.justify, overflow=renderable.overflow,
                no_wrap=renderable.no_wrap,
            )  # fmt: skip
        for segment in super().render(renderable, options):
            if segment.control is None and CONTROLS.search(segment.text):
                yield Segment(CONTROLS.sub("", segment.text), segment.style)
            else:
                yield segment
