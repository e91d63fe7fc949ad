"""Answers of sbatch: the id of a job, a refusal, or nothing that shows whether the job was accepted.

Pure. Sites wrap and filter sbatch: banners, advice and refusals appear on either stream, in any number of
lines.
"""

from __future__ import annotations

import re

from launch.state.job_ids import JobId, parse_id

# After these messages the job may have been accepted nevertheless, or sbatch never reached the controller.
UNCLEAR = (
    "Unable to contact", "timed out", "Zero Bytes", "onnection", "receive failure", "Unexpected message",
    "not responding", "standby mode",
)  # fmt: skip
VERDICT = re.compile(r"batch job submission failed: *(.*)", re.IGNORECASE)
PREFIX = re.compile(r"^sbatch: (?:error: |fatal: )?")
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
    explained = [line for line in lines if not VERDICT.search(line)]
    if explained and {verdict.strip(" .") for verdict in verdicts} <= {EMPTY_VERDICT}:
        return tuple(explained)
    return tuple(VERDICT.sub(r"\1", line) if VERDICT.match(line) else line for line in lines)


def words(said: str) -> list[str]:
    """Return the lines with content, as printable text: without rules of dashes and without repetition."""
    printable = ("".join(c if c.isprintable() else " " for c in line).strip() for line in said.splitlines())
    return list(
        dict.fromkeys(PREFIX.sub("", line).strip() for line in printable if any(map(str.isalnum, line)))
    )
