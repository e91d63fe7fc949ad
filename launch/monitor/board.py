"""What is worked out of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Board:
    """A study's figures."""
