"""Where the packed rows of a flattened batch lie: computed once per forward pass, used by every layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from jobs.training.sequence import Shards

FILLED = 8192  # scores a head that may be computed in vain for each row, to attend to several in one call


@dataclass
class Rows:
    """Where the rows of a flattened batch without padding lie.

    Attributes:
        bounds: First token of each row, and the end of the last one.
        cumulative: The same as an int32 tensor on the model's device.
        shards: Which processes hold which tokens; None if this one holds all.
        layers: Number of attention layers that have seen these rows.
    """

    bounds: tuple[int, ...]
    cumulative: Any
    shards: Shards | None = None
    layers: int = 0

    @cached_property
    def longest(self) -> int:
        """Return the length of the longest row."""
        return max(end - start for start, end in pairwise(self.bounds))

    @cached_property
    def groups(self) -> Groups:
        """Return the rows in groups of similar lengths."""
        return Groups.of(self.bounds, self.cumulative.device)


@dataclass(frozen=True)
class Groups:
    """Rows in groups of similar lengths, each filled up to a rectangle that one call attends to.

    What fills a row up comes after it, where causal attention does not see it.

    Attributes:
        tokens: For each group, the tokens of its rectangle, of shape (rows, longest).
        back: The place of each token in the rectangles, one after another; None if all tokens are in one
            rectangle in their order, as those of one row or of equally long rows are.
    """

    tokens: tuple[Any, ...]
    back: Any

    @classmethod
    def of(cls, bounds: tuple[int, ...], device: Any) -> Groups:
        """Group rows, longest first."""
        import torch

        rows = sorted(pairwise(bounds), key=lambda row: row[0] - row[1])
        groups: list[list[tuple[int, int]]] = []
        for start, end in rows:
            longest = groups[-1][0][1] - groups[-1][0][0] if groups else 0
            if longest**2 - (end - start) ** 2 > FILLED or not groups:
                groups.append([])
            groups[-1].append((start, end))
        tokens, back, before = [], np.zeros(bounds[-1], np.int64), 0
        for group in groups:
            starts, ends = np.array(group).T[:, :, None]
            places = np.arange(ends[0, 0] - starts[0, 0])
            inside = np.minimum(starts + places, ends - 1)
            tokens.append(torch.from_numpy(inside).to(device))
            real = starts + places < ends
            back[inside[real]] = before + np.flatnonzero(real)
            before += inside.size
        if len(groups) == 1 and before == bounds[-1]:
            return cls(tuple(tokens), None)
        return cls(tuple(tokens), torch.from_numpy(back).to(device))
