"""The help screen: keys, mouse, and the legend of states. Pure."""

from __future__ import annotations

from rich.text import Text

from launch.monitor.views.text import BAR, Lines, beside, columns
from launch.state.states import State
from launch.views import STYLES

KEYS = (
    ("↑ ↓ j k PgUp PgDn", "move, scroll; Home, End: to the ends"),
    ("Enter", "open a study, its units, one unit"),
    ("Esc Backspace", "back; clear the filter"),
    ("Tab Shift-Tab", "next study, previous study"),
    ("← →", "previous unit, next unit"),
    ("/", "find stage, name, state, cause, node"),
    ("s", "sort units by the next column"),
    ("f", "follow the log, or stop following"),
    ("r", "refresh now"),
    ("c", "cancel a unit or study; asks first"),
    ("u", "submit what is missing; asks first"),
    ("Ctrl-L Ctrl-Z", "redraw; suspend"),
    ("q Ctrl-C", "quit; jobs continue"),
    ("wheel, click", "move, select; Shift-drag copies text"),
)
STATES = {
    State.DONE: "its result is published",
    State.RUNNING: "its job is running",
    State.STALLED: "its job is running, but reports nothing",
    State.QUEUED: "its job is in the queue",
    State.PREEMPTED: "its job was stopped; it starts again by itself",
    State.WAITING: "needs other units, or was not submitted yet",
    State.FAILED: "its last run ended with an error",
    State.BLOCKED: "needs a unit that failed or is damaged",
    State.DAMAGED: "one of its files cannot be read",
}
WIDE = 150  # columns needed to place keys and states side by side


def help_page(width: int, height: int) -> Lines:
    """Render all keys, and what each state and its part of a bar means."""
    keys = columns([[Text(key, "bold"), Text(what)] for key, what in KEYS])
    states = columns([
        [Text(BAR[state], STYLES[state]), Text(state, STYLES[state]), Text(meaning)]
        for state, meaning in STATES.items()
    ], gap=1)  # fmt: skip
    return Lines(beside(keys, states) if width >= WIDE else [*keys, *states], width, height)
