"""Errors that end a command although nothing is wrong with the study: a retry later may succeed."""

from __future__ import annotations


class SlurmUnavailable(RuntimeError):
    """One of Slurm's programs did not answer; the message says which, why, and what to do."""
