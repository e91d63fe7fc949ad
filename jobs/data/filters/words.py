"""Texts as words and hashes of their runs: what near duplicates and benchmark items are recognized by.

Words are compared without case, Unicode forms, white space and most punctuation. A number with its
separators is one word ("1,000" is "1000"). Signs that carry meaning in mathematics and code (+ - * / = < >
^ % | &) are words of their own, so that "5-3" is not "5+3". Scripts without spaces (Chinese, Japanese,
Thai, Lao, Khmer, Burmese) give one word a character.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
SIGNS = str.maketrans({"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/"})
LATEX = re.compile(r"\\(?:times|cdot|div|left|right|displaystyle|[,;:! ])")  # in place of signs, or for looks
LATEX_SIGNS = {r"\times": "*", r"\cdot": "*", r"\div": "/"}
# Characters that are words alone: Thai and Lao, Burmese, Khmer, kana, Han in all its blocks.
ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"  # in words, but no letters to `\w`
WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{ALONE}]|(?:[^\W\d_{ALONE}]|[{MARKS}])+|[-+*/=<>^%|&]")
STEP = np.uint64(0x9E3779B97F4A7C15)


def normal(text: str) -> str:
    """Return a text without differences of case, white space and Unicode forms."""
    return " ".join(_folded(text).split())


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text.translate(INVISIBLE)).casefold()


def digest(text: str) -> int:
    """Return 64 bits that stand for the normal form of a text."""
    found = hashlib.blake2b(normal(text).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(found.digest(), "little")


def words(text: str) -> list[str]:
    """Return the words of a text; a text without any is one word."""
    plain = LATEX.sub(lambda found: LATEX_SIGNS.get(found[0], " "), text) if "\\" in text else text
    folded = _folded(plain)
    found = WORD.findall(folded if folded.isascii() else folded.translate(SIGNS))
    return [word.replace(",", "") if "," in word else word for word in found] or [normal(text)]


@dataclass(frozen=True)
class Hashed:
    """The words of several texts, hashed.

    Args:
        words: Hashes of all words, text after text.
        starts: Where each text begins, and where the last one ends.
    """

    words: Hashes
    starts: Places

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> Hashed:
        """Hash texts, each given by its words."""
        from pandas.util import hash_array  # half of a second that a process without filters need not take

        every = [word for text in texts for word in text]
        starts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=starts[1:])
        values = np.empty(len(every), object)
        values[:] = every
        hashed = hash_array(values, categorize=False) if every else np.empty(0, np.uint64)
        return cls(hashed.astype(np.uint64, copy=False), starts)

    @property
    def lengths(self) -> Places:
        """The number of words of each text."""
        return np.diff(self.starts)

    def runs(self, size: int) -> tuple[Hashes, Places]:
        """Return hashes of all runs of `size` words, and the number of the text that each is of."""
        total = len(self.words) - size + 1
        if total <= 0:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        found = self.words[:total].copy()
        for offset in range(1, size):  # a polynomial of the words' hashes, modulo 2**64
            found *= STEP
            found += self.words[offset : offset + total]
        text = np.repeat(np.arange(len(self.lengths)), self.lengths)[:total]
        inside = np.arange(total) + size <= self.starts[text + 1]
        return mixed(found[inside]), text[inside]

    def shingles(self, size: int) -> tuple[Hashes, Places]:
        """Return the runs of all texts, and where each text's begin, with the end of the last one.

        A text with fewer than `size` words has one, which is all of it.
        """
        runs, text = self.runs(size)
        short = np.flatnonzero(self.lengths < size)
        whole = np.array([self._whole(number) for number in short], np.uint64)
        numbers = np.concatenate([text, short])
        order = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(len(self.lengths) + 1))
        return np.concatenate([runs, whole])[order], starts.astype(np.int64)

    def _whole(self, number: int) -> int:
        found = 0
        for word in self.words[self.starts[number] : self.starts[number + 1]].tolist():
            found = (found * int(STEP) + word) % 2**64
        return int(mixed(np.array([found], np.uint64))[0])


def mixed(values: Hashes) -> Hashes:
    """Return the values with their bits mixed (the finalizer of SplitMix64)."""
    found = values ^ (values >> np.uint64(30))
    found *= np.uint64(0xBF58476D1CE4E5B9)
    found ^= found >> np.uint64(27)
    found *= np.uint64(0x94D049BB133111EB)
    found ^= found >> np.uint64(31)
    return found
