"""Whether an answer agrees with a reference answer.

Mathematics is compared by math-verify (`\\boxed{\\frac{1}{2}}` and 0.5, "1,000" and 1000, intervals, sets),
all else as text in its normal form: the whole answer, its last line, what it boxes, or what follows "answer
is".

One comparison takes milliseconds; some LaTeX takes forever, in C, where no signal is heard: see judges.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from jobs.data.filters.words import ALONE, normal

SECONDS = 10  # in which math-verify gives up parsing, and comparing
LONGEST = 4000  # characters at the end of an answer that are searched for its result
SOLUTION = "####"  # before the result in GSM8K's solutions
BOX = "\\boxed{"
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "÷": "/", "²": "^2", "³": "^3", "π": r"\pi ", "½": "1/2"}
)
CLAIM = re.compile(
    r"\b(?:answer|result)\W{0,4}(?:\s+is\b|[:：=])(?:\s+is\b|[\s:*])*|答案\s*[是为:：]+\s*", re.I
)
CHOICES = set("abcdefghij")
LETTER = re.compile(r"(?:\\\w+\{)?[(\[*]*([a-j])(?:\W|$)")
MARKED = re.compile(r"[(\[*]*([a-j])(?:[)\].:*]|$)")
WORDY = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
EDGES = " .,;:!?。，；：！？\"'“”‘’`*_$"
BESIDE = re.compile(rf"(?<=[{ALONE}])(?=[0-9A-Za-z\\$-])|(?<=[0-9A-Za-z}}$])(?=[{ALONE}])")


def agrees(answer: str, reference: str) -> bool:
    """Return whether an answer gives the result of a reference, which may be a solution that ends with it."""
    wanted = _plain(result_of(reference))
    if not wanted:
        return False
    if wanted in CHOICES:
        return _choice(answer) == wanted
    if wanted in map(_plain, _found(answer)):
        return True
    return _is_mathematics(reference) and _equal(answer[-LONGEST:], reference)


def result_of(text: str) -> str:
    """Return the result that a solution ends with: boxed, or behind "####"; else the whole text."""
    if SOLUTION in text:
        return text.rpartition(SOLUTION)[2].strip()
    return _boxed(text) or text


def _boxed(text: str) -> str:
    """Return what the last box holds; empty if there is none, or it is not closed."""
    _, box, rest = text.rpartition(BOX)
    depth = 1
    for place, character in enumerate(rest if box else ""):
        depth += (character == "{") - (character == "}")
        if not depth:
            return rest[:place]
    return ""


def _choice(answer: str) -> str:
    """Return the letter that an answer chooses; empty if it names none.

    Without "answer is", a letter counts with a bracket or a full stop behind it, or alone in its line: "A" is
    also a word.
    """
    *rest, last = _found(answer)
    text = normal(last)
    if not rest or CLAIM.search(answer[-LONGEST:]):
        found = LETTER.match(text)
    else:
        found = next(filter(None, (MARKED.match(normal(each)) for each in (*rest, last))), None)
    return found[1] if found else ""


def _found(answer: str) -> Iterator[str]:
    """Yield what may be meant as the result of an answer; what follows "answer is" comes last."""
    if boxed := _boxed(answer):
        yield boxed
        return
    if SOLUTION in answer:
        yield result_of(answer)
        return
    yield answer
    lines = answer.strip().splitlines()
    yield lines[-1] if lines else ""
    if claims := list(CLAIM.finditer(end := answer[-LONGEST:])):
        yield end[claims[-1].end() :].partition("\n")[0]


def _plain(text: str) -> str:
    bare = WORDY.sub(r"\1", text).replace("\\%", "%").replace("\\$", "$")
    return normal(bare).strip(EDGES)


def _is_mathematics(reference: str) -> bool:
    """Return whether a reference is a formula or a number; words would be read as products of letters."""
    return any(character.isdigit() or character in "\\^=<>$" for character in result_of(reference))


def _equal(answer: str, reference: str) -> bool:
    """Compare by math-verify; what it cannot read is not equal."""
    from math_verify import parse, verify

    for name in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it says so for each row
    result = _typed(result_of(reference))
    found = parse(_typed(answer), parsing_timeout=SECONDS)
    for gold in (f"${result.strip('$')}$", result):
        if found and verify(parse(gold, parsing_timeout=SECONDS), found, timeout_seconds=SECONDS):
            return True
    return False


def _typed(text: str) -> str:
    """Return a text as math-verify reads it: in ASCII signs, and spaces between ideographs and formulas."""
    return BESIDE.sub(" ", text.translate(FULL_WIDTH).translate(SIGNS))
