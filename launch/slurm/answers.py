"""Answers of sbatch: the id of a job, a refusal, where it would run, or nothing of all this.

Pure. Sites wrap and filter sbatch: banners, advice and refusals appear on either stream, in any number of
lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launch.state.job_ids import JobId, parse_id

# After these messages the job may have been accepted nevertheless, or sbatch never reached the controller.
UNCLEAR = (
    "Unable to contact", "timed out", "Zero Bytes", "onnection", "receive failure", "Unexpected message",
    "not responding", "standby mode",
)  # fmt: skip
VERDICT = re.compile(r"(?:batch job submission failed|^allocation failure): *(.*)", re.IGNORECASE)
# `sbatch --test-only` says where a job would start. It fails with these where a real one might be queued:
# nodes are down or drained, the queue is full of the user's jobs, or the time limit could be lower.
WOULD_RUN = re.compile(r"^Job \d+ to start at .* in partition (\S+)$")
TOO_LONG = "time limit is invalid"
MIGHT_WAIT = ("not available", "are busy", "accounting/QOS policy", TOO_LONG)
PREFIX = re.compile(r"^sbatch: (?:error: |fatal: )?")
PASSED = re.compile(r"\.\.\. *OK$")  # a site's check that is no reason for a refusal
EMPTY_VERDICT = "Unspecified error"  # where a filter refused, and explained why in a line of its own


def taken(stdout: str) -> JobId | None:
    """Return the id in the output of `sbatch --parsable`.

    Returns:
        None unless exactly one id stands alone in a line.
    """
    ids = {id for line in stdout.splitlines() if (id := parse_id(line))}
    return ids.pop() if len(ids) == 1 else None


def refusal(said: str) -> tuple[str, ...] | None:
    """Return the lines with which a failed sbatch explains that it has not submitted a job.

    Returns:
        None where the job may have been accepted nevertheless: the controller is busy or down, or nothing was
        printed.
    """
    lines = words(said)
    verdicts = [match[1] for line in lines if (match := VERDICT.search(line))]
    if not lines or any(sign in line for line in verdicts or lines for sign in UNCLEAR):
        return None
    lines = [line for line in lines if not PASSED.search(line)] or lines
    explained = [line for line in lines if not VERDICT.search(line)]
    if explained and {verdict.strip(" .") for verdict in verdicts} <= {EMPTY_VERDICT}:
        return tuple(explained)
    return tuple(VERDICT.sub(r"\1", line) if VERDICT.match(line) else line for line in lines)


@dataclass(frozen=True)
class Answer:
    """What a site would do with a job.

    Args:
        partition: where the job would start; None if that is not known.
        refused: the lines of a refusal.
        too_long: the time limit exceeds one of the site's; a shorter job may be accepted.
    """

    partition: str | None = None
    refused: tuple[str, ...] = ()
    too_long: bool = False


def would(said: str) -> Answer:
    """Return the answer in the output of `sbatch --test-only`."""
    for line in words(said):
        if match := WOULD_RUN.search(line):
            return Answer(match[1])
    why = refusal(said)
    if why is None or any(sign in line for line in why for sign in MIGHT_WAIT):
        return Answer(too_long=TOO_LONG in said)
    return Answer(refused=why)


def words(said: str) -> list[str]:
    """Return the lines with content, as printable text: without rules of dashes and without repetition."""
    printable = ("".join(c if c.isprintable() else " " for c in line).strip() for line in said.splitlines())
    return list(
        dict.fromkeys(PREFIX.sub("", line).strip() for line in printable if any(map(str.isalnum, line)))
    )
