"""Sequence parallelism: a group of processes shares the tokens of each micro-batch, for long blocks.

Every process of a group holds a contiguous part of the tokens and runs all layers but attention on it, since
these treat tokens one by one. For attention, one exchange gives each process all tokens of a part of the
heads, and a second one gives its tokens back the outputs of all heads: Ulysses, S. A. Jacobs et al.,
arXiv:2309.14509. DeepSpeed's own (`UlyssesSPAttentionHF`) is not used: it needs DeepSpeed, parts of equal
length, and attention that finds packed rows by their positions. Nothing here may depend on rows or kernels.

Gradients need no care of their own. The loss of a group is the sum of its processes' losses; the exchanges'
backward passes carry its gradient to the process whose weights made it. The sum over all processes is thus
the gradient of the whole batch, as without groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import gcd
from typing import Any


@dataclass(frozen=True)
class Group:
    """The processes that share micro-batches with this one.

    Attributes:
        size: Number of processes.
        rank: This process's number among them.
        handle: Their process group in torch.distributed.
    """

    size: int
    rank: int
    handle: Any

    def shards(self, tokens: int) -> Shards:
        """Return how this many tokens are shared, as evenly as possible."""
        return Shards(self, tuple(tokens * i // self.size for i in range(self.size + 1)))


def group_of(size: int | None) -> Group | None:
    """Return this process's group; consecutive processes form one. To be called by all processes.

    Args:
        size: Processes of a group; it divides their number. None or 1: each process is alone.

    Returns:
        The group; None if this process is alone.
    """
    import torch

    if size is None or size == 1:
        return None
    handle, _ = torch.distributed.new_subgroups(size)
    return Group(size, torch.distributed.get_rank() % size, handle)


@dataclass(frozen=True)
class Shards:
    """How the tokens of one micro-batch are shared by a group.

    Attributes:
        bounds: First token of each process, and the number of all tokens.
    """

    group: Group
    bounds: tuple[int, ...]

    @property
    def held(self) -> tuple[int, int]:
        """Return the first token of this process, and the first one after its part."""
        return self.bounds[self.group.rank], self.bounds[self.group.rank + 1]

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each process."""
        return [end - start for start, end in pairwise(self.bounds)]

    def by_heads(self, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
        """Return queries, keys and values of all tokens, for this process's part of the heads.

        Where the group's size does not divide the heads of keys and values, each is sent to all processes
        whose queries use it.

        Args:
            query, key, value: Shape (1, heads, tokens of this process, width); the heads of keys and values
                divide those of queries. Widths may differ.

        Returns:
            The same, of shape (1, heads of this process, all tokens, width).

        Raises:
            ValueError: The group's size does not divide the heads of queries.
        """
        import torch

        if query.shape[1] % self.group.size:
            raise ValueError(
                f"{self.group.size} processes cannot share the model's {query.shape[1]} attention heads "
                "evenly: set 'sequence_parallel' of its preset to a divisor of them"
            )
        copies = self.group.size // gcd(self.group.size, key.shape[1])
        if copies > 1:
            key, value = (x.repeat_interleave(copies, dim=1) for x in (key, value))
        given = query, key, value
        parts = [x[0].unflatten(0, (self.group.size, -1)).transpose(1, 2).flatten(2) for x in given]
        received = self._exchange(torch.cat(parts, dim=2).flatten(0, 1), self._mine, self.lengths)
        columns = received.split([part.shape[2] for part in parts], dim=1)
        found = [
            x.unflatten(1, (-1, like.shape[3])).transpose(0, 1)[None]
            for x, like in zip(columns, given, strict=True)
        ]
        return found[0], found[1], found[2]

    def by_tokens(self, output: Any) -> Any:
        """Return the attention's output for this process's tokens and all heads.

        Args:
            output: Shape (1, all tokens, heads of this process, width).

        Returns:
            The same, of shape (1, tokens of this process, heads, width).
        """
        received = self._exchange(output[0].flatten(1), self.lengths, self._mine)
        parts = received.unflatten(0, (self.group.size, self._mine[0])).transpose(0, 1)
        return parts.unflatten(2, output.shape[2:]).flatten(1, 2)[None]

    def own_heads(self, of_heads: Any) -> Any:
        """Return this process's part of a tensor with an entry for each head."""
        return of_heads.chunk(self.group.size)[self.group.rank]

    @property
    def _mine(self) -> list[int]:
        return [self.lengths[self.group.rank]] * self.group.size

    def _exchange(self, rows: Any, sent: list[int], received: list[int]) -> Any:
        return _function().apply(rows, sent, received, self.group.handle)


@cache
def _function() -> Any:
    """Return the autograd function, defined here so that torch is imported only when it is needed."""
    import torch

    class Exchange(torch.autograd.Function):
        """An all-to-all along the first dimension; its backward pass sends gradients the same way back."""

        @staticmethod
        def forward(ctx: Any, rows: Any, sent: Sequence[int], received: Sequence[int], group: Any) -> Any:
            ctx.back = received, sent, group
            made = rows.new_empty(sum(received), *rows.shape[1:])
            torch.distributed.all_to_all_single(made, rows.contiguous(), received, sent, group)
            return made

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return Exchange.apply(grad, *ctx.back), None, None, None

    return Exchange
