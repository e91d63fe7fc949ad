"""Text layout in limited space: columns, bars, sparklines, short number formats. Pure.

Characters that an ASCII terminal cannot show are replaced by ASCII ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from math import isfinite, nan
from statistics import fmean

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from launch.monitor.data.eta import Span
from launch.state.states import State

BAR = {  # the characters of the states in a bar
    State.DONE: "█", State.RUNNING: "▓", State.STALLED: "▓", State.QUEUED: "░", State.PREEMPTED: "░",
    State.WAITING: "·", State.FAILED: "×", State.BLOCKED: "×", State.DAMAGED: "×",
}  # fmt: skip
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans("█▓░·…–×▸✗┃│─└" + BLOCKS[:-1], "#=-.~-x>x||-`" + "__..--^")


class Lines:
    """Lines cropped to `width` × `height` cells."""

    def __init__(self, lines: Iterable[Text], width: int, height: int) -> None:
        self.lines = list(lines)[: max(height, 0)]
        for line in self.lines:
            line.no_wrap, line.overflow = True, "crop"
            line.truncate(width, overflow="ellipsis")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            if options.ascii_only:
                line = line.copy()
                line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
            yield line


def columns(rows: Sequence[Sequence[Text]], right: Iterable[int] = (), gap: int = 2) -> list[Text]:
    """Align rows of cells into columns; those in `right` are right-aligned."""
    sizes = [[cells(cell) for cell in row] for row in rows]
    widths = [max(column) for column in zip(*sizes, strict=True)]
    flush, lines = set(right), []
    for row, size in zip(rows, sizes, strict=True):
        line, space = Text(), 0  # spaces are added with what follows them, which is faster
        for index, cell in enumerate(row):
            pad = widths[index] - size[index]
            if size[index]:
                before = space + (pad if index in flush else 0)
                (line.append(" " * before) if before else line).append_text(cell)
                space = gap + (0 if index in flush else pad)
            else:
                space += pad + gap
        lines.append(line)
    return lines


def beside(left: Sequence[Text], right: Sequence[Text], gap: int = 3) -> list[Text]:
    """Place two blocks of lines side by side."""
    count = max(len(left), len(right))
    blank = [Text()]
    rows = zip([*left, *blank * (count - len(left))], [*right, *blank * (count - len(right))], strict=True)
    return columns([list(row) for row in rows], gap=gap)


def panes(left: Lines, right: Lines, width: int) -> list[Text]:
    """Place two blocks side by side with a line between them, the left one padded to `width` cells."""
    lines = list[Text]()
    for ours, theirs in zip_longest(left.lines, right.lines, fillvalue=Text()):
        line = ours.copy().append(" " * (width - cells(ours)))
        lines.append(line.append(" │ ", "dim").append_text(theirs))
    return lines


def flow(parts: Iterable[Text], width: int, gap: int = 3) -> list[Text]:
    """Join parts into lines, wrapping at the width."""
    lines: list[Text] = []
    for part in parts:
        if lines and cells(lines[-1]) + gap + cells(part) <= width:
            lines[-1].append(" " * gap).append_text(part)
        else:
            lines.append(part)
    return lines


def cells(text: Text) -> int:
    """Return the display width of a text."""
    return cell_len(text.plain)


def window(total: int, selected: int, room: int, first: int) -> range:
    """Return the indices of the entries of a list that are shown, scrolled only as far as is necessary.

    Args:
        selected: the entry that has to be among them.
        room: how many there is space for.
        first: the first one that was shown before.
    """
    first = min(max(first, selected - room + 1), selected, max(0, total - room))
    return range(first, min(first + room, total))


def shorten(name: str, width: int) -> str:
    """Elide the middle of a name that is too long: beginnings and ends tell units apart."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 3
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def bar(parts: Sequence[tuple[float, str, str]], width: int) -> Text:
    """Draw (amount, character, style) in proportion; every nonzero amount gets a cell."""
    total = sum(amount for amount, _, _ in parts) or 1.0
    sizes = [int(width * amount / total + 1e-9) or int(amount > 0) for amount, _, _ in parts]
    while sum(sizes) > width:
        sizes[sizes.index(max(sizes))] -= 1
    while sum(sizes) < width:
        lost = [width * amount / total - size for (amount, _, _), size in zip(parts, sizes, strict=True)]
        sizes[lost.index(max(lost))] += 1
    return Text.assemble(*((c * size, style) for (_, c, style), size in zip(parts, sizes, strict=True)))


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as a row of blocks, at most one for each value."""
    return chart(values, min(width, len(values)), 1)[0] if values else ""


def chart(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw values as columns of blocks, averaging neighbors or repeating values to fill the width.

    A column that would show NaN or an infinite value is blank.
    """
    edges = [(i * len(values) // width, (i + 1) * len(values) // width) for i in range(width)]
    means = [_mean(values[a : max(b, a + 1)]) for a, b in edges]
    known = [mean for mean in means if isfinite(mean)]
    least, most, full = min(known, default=0.0), max(known, default=0.0), len(BLOCKS)
    span = most / 2 - least / 2  # halves, whose difference is finite
    shares = [(mean / 2 - least / 2) / span if span else 0.0 for mean in means]
    levels = [
        1 + round(share * (full * height - 1)) if isfinite(mean) else 0
        for mean, share in zip(means, shares, strict=True)
    ]
    rows = range(full * (height - 1), -1, -full)  # what is below each row
    return ["".join(BLOCKS[min(n - below, full) - 1] if n > below else " " for n in levels) for below in rows]


def _mean(values: Sequence[float]) -> float:
    """Return the mean; NaN or infinite if a value is, and NaN if there is none."""
    try:
        return fmean(values)
    except (ValueError, OverflowError):  # infinities of both signs, or sums beyond any number
        return nan


def duration(seconds: float) -> str:
    """Format seconds as two or three digits and a unit: 45 s, 12 min, 5.2 h, 3.4 d."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= (1.5 if unit != "d" else 2.0) * size:
            amount = seconds / size
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "min" else f"{amount:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def in_words(short: str) -> str:
    """Return a formatted duration with its unit in full: 12 minutes."""
    number, unit = short.split()
    word = {"s": "second", "min": "minute", "h": "hour", "d": "day"}[unit]
    return f"{number} {word}{'s' * (number != '1')}"


def around(span: Span, words: bool = False) -> str:
    """Format a span of seconds: 3.2 h (2.1–5.0 h); with `words`, 3.2 hours (2.1 to 5.0 hours)."""
    low, mid, high = map(duration, (span.low, span.mid, span.high))
    same = low.split()[1] == high.split()[1]
    if words:
        mid, low, high = in_words(mid), in_words(low), in_words(high)
    if low == high:
        return mid
    return f"{mid} ({low.split()[0] if same else low}{' to ' if words else '–'}{high})"


def rate_in_words(rate: float, per: str) -> str:
    """Format a rate per second: 123k tokens/s; slow rates per minute or hour."""
    every, seconds = next(((e, s) for e, s in (("s", 1), ("min", 60)) if rate * s >= 1), ("h", 3600))
    number = rate * seconds
    size, letter = next(
        ((s, x) for s, x in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= 10 * s), (1.0, "")
    )
    return f"{number / size:.{int(number / size < 10)}f}{letter} {per}/{every}"


def percent(share: float) -> str:
    """Format a share in percent; only exactly 0 and 1 are shown as 0 % and 100 %."""
    whole = min(99, max(1, round(100 * share))) if 0 < share < 1 else round(100 * share)
    return f"{whole} %"
