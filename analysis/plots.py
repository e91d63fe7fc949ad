"""Figures of a study: each function turns tables of `analysis.statistics` into a Figure.

Figures are drawn without pyplot: no shared state, no display needed. Colors are the color-blind-safe palette
of Okabe and Ito (2008); marker shapes also encode the supervision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullLocator

from analysis.statistics.frontier import AXES, both_orders, size_order, supervision

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("^", "D", "v", "P", "p", "X")  # of mixtures; plain answers are circles, reasoning squares
LONGEST = 60  # characters of a name in a figure
LABELS = {"training_flops": "training FLOPs", "inference_flops": "inference FLOPs per item"}
TITLE, TITLE_LINE = 36, 0.17  # characters of a line of a panel's title; its height in inches
GREY = "#444444"
PANEL = (3.1, 2.5)  # inches
PAPER = 3.3  # inches; the width of one of a paper's two columns
SMALLEST = 8  # points; text of a figure for a paper


@dataclass(frozen=True)
class Style:
    """Meaning of colors and markers, the same in all panels of a figure.

    Up to seven sizes use the most distinguishable colors; more use a scale from dark to light. Mixtures
    beyond the number of markers are stars with increasing numbers of points.
    """

    colors: dict[str, str]  # by size
    markers: dict[float, str]  # by share
    both_orders: bool  # both orders of mixtures occur: shuffled ones are drawn hollow

    @classmethod
    def of(cls, points: pd.DataFrame) -> Style:
        sizes = size_order(points)
        shares = sorted(points["share"].dropna().unique())
        mixed = [share for share in shares if 0 < share < 1]
        stars = [f"star{n}" for n in range(5, 5 + len(mixed))]
        markers = {0.0: "o", 1.0: "s", **dict(zip(mixed, (*MARKERS, *stars), strict=False))}
        return cls(
            colors=dict(zip(sizes, _colors(len(sizes)), strict=True)),
            markers={share: markers[share] for share in shares},
            both_orders=both_orders(points),
        )

    def draw(self, axes: Axes, rows: pd.DataFrame, x: str, full: pd.Series[bool]) -> None:
        """Draw the students of `rows` with one-standard-error bars; those not `full` are small and pale."""
        colors = rows["size"].map(self.colors).fillna(GREY)
        colors = colors.where(full, colors.map(lambda color: pale(color, 0.55)))
        hollow = self.both_orders & rows["share"].between(0, 1, "neither") & (rows["order"] == "shuffled")
        rows = rows.assign(
            full=full, color=colors, face=colors.where(~hollow, "white"),
            marker=rows["share"].map(self.markers).fillna("o"),
        ).sort_values("full")  # fmt: skip
        low, high = rows["accuracy"] - rows["stderr"], rows["accuracy"] + rows["stderr"]
        axes.vlines(rows[x], low, high, list(rows["color"]), lw=0.9, zorder=2)
        # Draw all points of one look at once: drawing them individually would dominate the runtime.
        for (is_full, marker), alike in rows.groupby(["full", "marker"]):
            axes.scatter(
                alike[x], alike["accuracy"], s=6.5**2 if is_full else 5.0**2, c=list(alike["face"]),
                marker=_marker(str(marker)), edgecolors=list(alike["color"]), linewidths=1, zorder=3,
            )  # fmt: skip

    def legend(self) -> list[list[Line2D]]:
        """Return the legend entries of the colors and of the markers."""

        def entry(label: str, color: str, marker: str, face: str | None = None) -> Line2D:
            face = face or color
            shape = _marker(marker)
            return Line2D([], [], ls="", label=label, color=color, marker=shape, markerfacecolor=face)

        sizes = [entry(short(size), color, "o") for size, color in self.colors.items()]
        shares = [entry(supervision(share), GREY, marker) for share, marker in self.markers.items()]
        return [sizes, shares + ([entry("shuffled", GREY, "D", "white")] if self.both_orders else [])]


def _colors(count: int) -> list[str]:
    """Return `count` distinct colors."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [to_hex(color) for color in colormaps["turbo"]([i / (count - 1) for i in range(count)])]


def _marker(name: str) -> MarkerStyle:
    points = name.removeprefix("star")
    return MarkerStyle(name) if points == name else MarkerStyle((int(points), 1, 0))


def short(name: str, most: int = LONGEST) -> str:
    """Shorten a name to leave room for the figure."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def frontier(
    points: pd.DataFrame,
    x: str = "training_flops",
    standing: pd.DataFrame | None = None,
    findings: Mapping[str, str] | None = None,
    across: int | None = None,
) -> Figure:
    """Plot accuracy against compute, one panel per scope in `points`, the frontier as a step line.

    Args:
        points: Rows of `analysis.statistics.frontier.frontier_table`, of all or some of its scopes.
        x: "training_flops" or "inference_flops" (per item).
        standing: Table of `analysis.statistics.frontier.standing`, for the frontier's 95 % band.
        findings: What a panel shows, by scope; it is added to the panel's title.
        across: Panels per row of a figure for a paper, without a title (the caption replaces it): 1 fits one
            of two columns (3.3 inches), 2 the full width. None: a titled figure, as wide as needed.

    Returns:
        A figure; students on the frontier are drawn in full color with their size, others pale; bars are
        standard errors.
    """
    style = Style.of(points)
    figure, panels = _panels(points, findings, across)
    for axes, rows in panels:
        known = rows.dropna(subset=[x, "accuracy"])
        known = known[known[x] > 0]
        if known.empty:
            axes.text(0.5, 0.5, f"no {LABELS[x]} known", ha="center", transform=axes.transAxes, color=GREY)
            axes.set(xticks=[], yticks=[])
            continue
        _log_axis(axes, known[x])
        steps = known[known[AXES[x]]].sort_values([x, "accuracy"])
        ends = [*steps[x], axes.get_xlim()[1]]  # the frontier continues until a better student
        heights = [*steps["accuracy"], steps["accuracy"].max()]
        axes.step(ends, heights, where="post", color=GREY, lw=1, zorder=1)
        if standing is not None:
            own = standing[(standing["axis"] == x) & (standing["scope"] == rows["scope"].iloc[0])]
            band = known.merge(own, on="student").dropna(subset="band_low").sort_values([x, "band_high"])
            low, high = ([*band[name], *band[name].tail(1)] for name in ("band_low", "band_high"))
            edges = [*band[x], *[axes.get_xlim()[1]][: len(band)]]
            axes.fill_between(edges, low, high, step="post", color="#dddddd", lw=0, zorder=0.5)
        style.draw(axes, known, x, known[AXES[x]])
        _name(axes, steps, x, SMALLEST if across else 7.5)
    sizes, shares = style.legend()
    line = Line2D([], [], color=GREY, lw=1, label="frontier" + ("" if standing is None else ", 95 % band"))
    title = "" if across else f"Accuracy against {LABELS[x]}"
    _finish(figure, title, LABELS[x], [[*sizes, line], shares])
    return figure


def mixtures(points: pd.DataFrame, across: int | None = None) -> Figure:
    """Plot accuracy against the share of reasoning rows, one panel per scope, one line per size and recipe.

    Lines connect means over seeds; if both orders of mixtures occur, shuffled ones are dashed.

    Args:
        points: Rows of `analysis.statistics.frontier.frontier_table`; those without a share are dropped.
        across: As for `frontier`.
    """
    points = points.dropna(subset=["share", "accuracy"])
    style = Style.of(points)
    figure, panels = _panels(points, across=across)
    for axes, rows in panels:
        for (size, _), own in rows.groupby(["size", "recipe"]):
            color = style.colors[str(size)]
            for order, line in _orders(own) if style.both_orders else [("", own)]:
                means = line.groupby("share")["accuracy"].mean()
                dashes = "--" if order == "shuffled" else "-"
                axes.plot(means.index, means, dashes, color=color, lw=1.3, zorder=1)
        style.draw(axes, rows, "share", pd.Series(True, rows.index))
        axes.set_xticks(sorted(points["share"].unique()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.0f}"))
        axes.set_xlim(-0.06, 1.06)
    title = "" if across else "Accuracy against the share of reasoning in the training data"
    _finish(figure, title, "share of reasoning, %", style.legend())
    return figure


def gains(table: pd.DataFrame, across: int | None = None) -> Figure:
    """Plot reasoning's gain over plain answers of the same size against how much longer its answers are.

    Args:
        table: Table of `statistics.matched.gains`, one panel per group. Points of the largest size are
            labeled with the benchmark; bars are individual 95 % intervals.
        across: As for `frontier`.
    """
    table = table[table["extra_tokens"] > 0].assign(scope=table["group"], share=1.0, order="")
    style = Style.of(table)
    figure, panels = _panels(table, across=across)
    for axes, rows in panels:
        _log_axis(axes, rows["extra_tokens"])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}"))
        axes.axhline(0, color=GREY, lw=0.8)
        for size, own in rows.groupby("size"):
            color = style.colors[str(size)]
            axes.vlines(own["extra_tokens"], own["low"], own["high"], color, lw=0.7, alpha=0.6)
            axes.plot(own["extra_tokens"], own["gain"], "s", color=color, ms=4)
        named = rows[rows["size"] == list(style.colors)[-1]]
        for x, y, name in named[["extra_tokens", "gain", "benchmark"]].itertuples(index=False):
            axes.annotate(
                short(str(name)), (x, y), (4, 3), textcoords="offset points", color=GREY,
                fontsize=SMALLEST if across else 6, parse_math=False,
            )  # fmt: skip
    label = "tokens per answer, times those of plain answers"
    title = "" if across else "Gain from reasoning against its extra tokens"
    _finish(figure, title, label, style.legend()[:1], "gain, points")
    return figure


def probabilities(standing: pd.DataFrame, axis: str = "training_flops") -> Figure:
    """Plot a heat map of how often a configuration (row) is on a scope's frontier (column) in resamples.

    Args:
        standing: Table of `analysis.statistics.frontier.standing`.
        axis: One of `analysis.statistics.frontier.COSTS`.
    """
    rows = standing[standing["axis"] == axis]
    wide = rows.pivot(index="student", columns="scope", values="probability")
    wide = wide.reindex(index=rows["student"].unique(), columns=rows["scope"].unique())
    rows_named, columns_named = ([short(name) for name in labels] for labels in (wide.index, wide.columns))
    left, below = (0.3 + 0.065 * max(map(len, labels)) for labels in (rows_named, columns_named))
    width, height = max(0.4 * wide.shape[1], 3.2), 0.22 * len(wide)  # of the map alone, in inches
    right, top = max(left + width + 0.2, 5.2), below + height + 0.6  # as wide as the title
    figure = Figure(figsize=(right, top))
    axes = figure.add_axes((left / right, below / top, width / right, height / top))
    axes.imshow(wide, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(
        range(wide.shape[1]), columns_named, rotation=55, ha="right", fontsize=8, parse_math=False
    )
    axes.set_yticks(range(len(wide)), rows_named, fontsize=8, parse_math=False)
    for i, line in enumerate(wide.to_numpy()):
        for j, value in enumerate(line):
            if not value < 0.01:  # false for NaN
                shown, color = f"{100 * value:.0f}".replace("nan", "–"), "white" if value > 0.6 else GREY
                axes.text(j, i, shown, ha="center", va="center", fontsize=7, color=color)
    what = {**LABELS, "both": "training and inference FLOPs"}[axis]
    title = f"How often on the frontier, % of resamples (blank: below 1)\n{what}"
    figure.text(0.1 / right, 1 - 0.1 / top, title, fontsize=10, va="top")
    return figure


def _orders(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split rows by mixture order; students with a single kind of data are included in every order."""
    mixed = rows[rows["share"].between(0, 1, inclusive="neither")]
    pure = rows.drop(mixed.index)
    if mixed.empty:
        return [("", pure)]
    return [(str(order), pd.concat([pure, own])) for order, own in mixed.groupby("order", dropna=False)]


def _name(axes: Axes, steps: pd.DataFrame, x: str, size_of_text: float) -> None:
    """Label the steps of a frontier with their sizes; of steps that are close, the first."""
    low, high = axes.get_xlim()
    wide, last = math.log10(high / low), -math.inf
    tall = axes.get_ylim()[1] - axes.get_ylim()[0]
    level = -math.inf
    for at, accuracy, size in steps[[x, "accuracy", "size"]].dropna().itertuples(index=False):
        place = math.log10(at / low) / wide
        if place - last > 0.16 or accuracy - level > 0.12 * tall:
            axes.annotate(
                short(str(size)), (at, accuracy), (5, -4), textcoords="offset points",
                fontsize=size_of_text, color=GREY, va="top", parse_math=False,
            )  # fmt: skip
            last, level = place, accuracy


def _panels(
    points: pd.DataFrame, findings: Mapping[str, str] | None = None, across: int | None = None
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Create a figure with a titled panel per scope, in table order; `_finish` lays it out.

    Titles are the scopes, long ones cut, with their findings, which are only broken into lines.
    """
    names = list(dict.fromkeys(points["scope"]))
    columns = min(len(names), across or (3 if len(names) < 8 else 4))
    rows = math.ceil(len(names) / columns)
    width = PAPER * across if across else max(PANEL[0] * columns, 2 * PANEL[0])
    figure = Figure(figsize=(width, PANEL[1] * rows))
    found = []
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        # A fixed y avoids a slow search for the title's position; names must not be parsed as formulas.
        parts = (short(str(name), 3 * TITLE), (findings or {}).get(name, ""))
        title = "\n".join(fill(part, TITLE) for part in parts if part)
        axes.set_title(title, fontsize=10, loc="left", y=1.0, parse_math=False)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda accuracy, _: f"{accuracy * 100:.3g}"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(color="#e6e6e6", lw=0.6)
        axes.set_axisbelow(True)
        found.append((axes, points[points["scope"] == name]))
    return figure, found


def _log_axis(axes: Axes, values: pd.Series[float]) -> None:
    """Set a logarithmic x axis with room around the points; short axes get labels between powers of 10."""
    low, high = math.log10(values.min()), math.log10(values.max())
    margin = max(0.08 * (high - low), 0.1)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    subs = (1.0, 2.0, 5.0) if high - low < 0.9 else (1.0, 3.0) if high - low < 1.6 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(9, 9)))
    axes.xaxis.set_minor_locator(NullLocator())


def _finish(
    figure: Figure, title: str, x_label: str, legend: list[list[Line2D]], y_label: str = "accuracy, %"
) -> None:
    """Label the axes and place the title and a legend above the panels, each list on a new line.

    Margins are set in inches. Having matplotlib find them would draw everything twice, which takes longer
    than the rest of a report.
    """
    width, panels = figure.get_size_inches()
    fit = int(width / 1.4)  # entries per line
    lines = [part[i : i + fit] for part in legend for i in range(0, len(part), fit)]
    longest = max(map(len, lines))
    blank = Line2D([], [], ls="", label=" ")
    padded = [line + [blank] * (longest - len(line)) for line in lines]
    titles = max(axes.get_title("left").count("\n") for axes in figure.axes)  # lines beyond the first
    rows = round(panels / PANEL[1])
    top, bottom = (0.62 if title else 0.36) + 0.2 * len(lines) + TITLE_LINE * titles, 0.55
    height = panels + top + bottom - 0.5 + TITLE_LINE * titles * (rows - 1)
    figure.set_size_inches(width, height)
    figure.subplots_adjust(
        left=0.62 / width, right=1 - 0.12 / width, top=1 - top / height, bottom=bottom / height,
        wspace=0.16, hspace=0.36 + TITLE_LINE * titles / (panels / rows / 1.36),
    )  # fmt: skip
    legend_box = figure.legend(
        handles=[line[i] for i in range(longest) for line in padded],  # matplotlib fills column by column
        loc="upper center", ncols=longest, frameon=False, fontsize=8.5, handletextpad=0.4,
        columnspacing=1.2, title=title or None, title_fontproperties={"size": 12, "weight": "bold"},
    )  # fmt: skip
    for text in legend_box.get_texts():
        text.set_parse_math(False)
    middle = (bottom + (height - top - bottom) / 2) / height
    figure.text(0.62 / width + (1 - 0.74 / width) / 2, 0.12 / height, x_label, ha="center", fontsize=10)
    figure.text(0.12 / width, middle, y_label, va="center", rotation="vertical", fontsize=10)


def pale(color: str, by: float) -> str:
    """Mix a color with white; the result is opaque, so that nothing shows through."""
    red, green, blue = (part + (1 - part) * by for part in to_rgb(color))
    return to_hex((red, green, blue))
