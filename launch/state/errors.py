"""What ends a command though nothing is wrong with the study: whoever asks later may be answered."""

from __future__ import annotations


class SlurmUnavailable(RuntimeError):
    """One of Slurm's programs gave no answer; the message says which, why, and what to do."""
