"""Asking Slurm: one program a question, each with a time limit and a clear word where there is no answer.

Only `submit` and `cancel` change anything. What the answers mean is parse.py's business.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from launch.slurm import limits, parse
from launch.slurm.answers import refusal, taken, words
from launch.slurm.limits import Association, Partition, Qos
from launch.slurm.parse import (
    Config,
    Consumed,
    NoAccounting,
    NodeGroup,
    NotSetUp,
    PastJob,
    Place,
    QueuedJob,
    Refused,
)
from launch.slurm.text import SEPARATOR, Table
from launch.state.errors import SlurmUnavailable
from launch.state.job_ids import JobId
from launch.study.header import WELCOME

TIMEOUT = 30.0  # seconds; a busy controller answers within a few
PAUSE = 300.0  # seconds for which a database that gave no answer is not asked again
# A person's own defaults would change formats and selections, and the job that we may be in what jobs get.
FOREIGN = ("SQUEUE_", "SACCT_", "SINFO_", "SBATCH_", "SLURM_")
SHOWN = 15.0  # seconds for which the queue is asked for a job of whose id sbatch said nothing
PER_CLUSTER = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")  # which take --clusters
HEADING = "CLUSTER: "  # a line of theirs before what they say of a cluster, in some versions
NOT_SET_UP = "establish a configuration source"  # Slurm's words when it finds no slurm.conf


class Controller:
    """The Slurm that this machine belongs to; SLURM_CONF tells where that is not the usual one.

    Every question raises SlurmUnavailable when it gets no answer within `timeout` seconds.

    Args:
        cluster: the name of another cluster that this Slurm's programs can reach, as with their --clusters.
    """

    def __init__(self, timeout: float = TIMEOUT, cluster: str | None = None) -> None:
        self.cluster = cluster
        self._timeout = timeout
        self._silent: SlurmUnavailable | None = None
        self._silent_until = 0.0

    def queue(self) -> Table[QueuedJob]:
        """All jobs of this user that the controller knows, also those that ended a while ago.

        Slurm sorts out nothing by name: a study's jobs are told by it afterwards, in one call for all. The
        elements of an array that wait share a line, which takes a tenth of the time of a line each.
        """
        form = f"--format={SEPARATOR.join(parse.QUEUE)}"
        return parse.parse_queue(self._ask("squeue", "--all", "--noheader", "--me", "--states=all", form))

    def places(self) -> Table[Place]:
        """What of the queue this user has taken, of whatever study."""
        form = f"--format={SEPARATOR.join(parse.PLACES)}"
        return parse.parse_places(self._ask("squeue", "--all", "--noheader", "--me", form))

    def history(self, since: int) -> Table[PastJob]:
        """Runs of this user's jobs since a time after 0; some seconds behind, and without those that wait.

        Raises:
            NoAccounting: the cluster keeps none; so do `associations` and `qos`.
        """
        return parse.parse_history(self._past(since, parse.HISTORY, "--allocations"))

    def memory(self, jobs: Iterable[str], since: int) -> dict[tuple[str, str], tuple[int, int]]:
        """MiB of a node that jobs, by name and id, asked for and have used. It raises what `history` does."""
        return parse.parse_memory(self._past(since, parse.MEMORY, f"--jobs={','.join(jobs)}"))

    def energy(self, since: int) -> Table[Consumed]:
        """What steps of this user's jobs have used since a time. It raises what `history` does."""
        return parse.parse_energy(self._past(since, parse.ENERGY))

    def config(self) -> Config:
        """The controller's settings."""
        return parse.parse_config(self._ask("scontrol", "show", "config"))

    def partitions(self) -> Table[Partition]:
        """All partitions, hidden ones too, since jobs may name them."""
        return limits.parse_partitions(self._ask("scontrol", "--all", "--oneliner", "show", "partition"))

    def nodes(self) -> Table[NodeGroup]:
        """The nodes of every partition, in groups of equal ones."""
        form = SEPARATOR.join(parse.NODES)
        return parse.parse_nodes(self._ask("sinfo", "--all", "--noheader", "--exact", f"--format={form}"))

    def associations(self, cluster: str) -> Table[Association]:
        """This user's rows, then those of all accounts, which the limits of groups stand in."""

        def ask(fields: tuple[str, ...], user: str) -> str:
            return self._manager("association", fields, "where", f"cluster={cluster}", f"user={user}")

        # Slurm 22.05 takes a quarter of a second for each, and for both kinds of fields in one a third.
        with ThreadPoolExecutor() as pool:
            others = pool.submit(ask, limits.ASSOCIATION, "")
            services = pool.submit(ask, limits.SERVICES, _user())
            own = ask(limits.ASSOCIATION, _user())
            return limits.parse_associations(f"{own}\n{others.result()}", services.result())

    def qos(self) -> Table[Qos]:
        """All qualities of service."""
        return limits.parse_qos(self._manager("qos", limits.QOS))

    def submit(self, script: Path) -> JobId:
        """Submit a script; returns the job's id. The job's name has to be that of the script's folder.

        Where sbatch says no id, the queue is asked for the job's name.

        Raises:
            Refused: Slurm said no, and has not taken the job.
            SlurmUnavailable: nobody knows whether Slurm has taken the job.
        """
        done = self._run("sbatch", "--parsable", str(script))
        said = f"{done.stderr}\n{done.stdout}"
        if NOT_SET_UP in said:
            _fail("sbatch", said)
        id = taken(done.stdout)
        if id and not done.returncode:
            return id
        if done.returncode > 0 and not id and (why := refusal(said)):
            raise Refused(*why)
        name = script.parent.name
        if not done.returncode and (found := self._named(name)):
            return found
        how = f"exited with code {done.returncode}" if done.returncode else "printed no line with a job's id"
        raise SlurmUnavailable(
            f"'sbatch' {how}, and whether Slurm has taken job {name} is not known: the next 'sor submit' "
            f"looks for a job of that name. It said: {'; '.join(words(said)) or 'nothing'}. "
            f"{_advice('sbatch')}"
        )

    def _named(self, name: str) -> JobId | None:
        """The job of this name, once the queue shows one."""
        until = time.monotonic() + SHOWN
        while True:
            found = [row for row in self.queue().rows if row.name == name]
            if found or time.monotonic() > until:
                return JobId(found[0].array, self.cluster) if found else None
            time.sleep(1)

    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs, or elements of arrays; those that have ended already are no error."""
        self._ask("scancel", "--quiet", *jobs)

    def _past(self, since: int, fields: tuple[str, ...], *more: str) -> str:
        return self._database(
            "sacct", "--duplicates", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}",
            f"--user={_user()}", f"--starttime=uts{since}", f"--format={','.join(fields)}", *more,
        )  # fmt: skip

    def _manager(self, kind: str, fields: tuple[str, ...], *where: str) -> str:
        text = self._database(
            "sacctmgr", "--noheader", "--parsable2", "show", kind, *where, f"format={','.join(fields)}"
        )
        return text.replace("|", SEPARATOR)  # it has no choice of a separator, and no field with a bar

    def _database(self, *command: str) -> str:
        """Ask slurmdbd, which may be down for days; a monitor must not wait for it again and again."""
        if self._silent and time.monotonic() < self._silent_until:
            raise self._silent
        try:
            return self._ask(*command)
        except SlurmUnavailable as error:
            self._silent, self._silent_until = error, time.monotonic() + PAUSE
            raise

    def _ask(self, *command: str) -> str:
        done = self._run(*command)
        if done.returncode:
            _fail(command[0], done.stderr if done.stderr.strip() else done.stdout)
        if self.cluster is None:
            return done.stdout
        lines = done.stdout.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(HEADING))

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        if self.cluster is not None and command[0] in PER_CLUSTER:
            command = command[0], f"--clusters={self.cluster}", *command[1:]
        conf = os.environ.get("SLURM_CONF")
        if conf and not Path(conf).exists():  # Slurm's programs would wait for it for a minute
            raise NotSetUp(f"SLURM_CONF names {conf}, which is not there: set it to the cluster's slurm.conf")
        own = {k: v for k, v in os.environ.items() if k in WELCOME or not k.startswith(FOREIGN)}
        environment = {**own, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}  # 0: lists are never cut
        try:
            return subprocess.run(
                command, env=environment, capture_output=True, encoding="utf-8", errors="replace",
                stdin=subprocess.DEVNULL, timeout=self._timeout, check=False,
                preexec_fn=_die_with_parent if command[0] == "sbatch" else None,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise SlurmUnavailable(f"'{command[0]}' is not installed here: use a login node") from error
        except subprocess.TimeoutExpired as error:
            said = "; ".join(
                words(b"\n".join(filter(None, (error.stderr, error.stdout))).decode(errors="replace"))
            )
            raise SlurmUnavailable(
                f"'{command[0]}' got no answer within {self._timeout:g} s{said and f', and said: {said}'}. "
                f"{_advice(command[0])}"
            ) from error


_prctl = ctypes.CDLL(None).prctl  # found before any fork
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it, and so with ours.

    An sbatch that went on trying alone would surprise.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name  # what Slurm goes by, whatever LOGNAME says


def _fail(program: str, said: str) -> NoReturn:
    if "accounting storage is disabled" in said or "not running a supported accounting_storage" in said:
        raise NoAccounting("this cluster keeps no accounts (its AccountingStorageType is 'none')")
    if NOT_SET_UP in said:
        raise NotSetUp("Slurm's programs found no slurm.conf: set SLURM_CONF to the cluster's")
    raise SlurmUnavailable(
        f"'{program}' failed and said: {'; '.join(words(said)) or 'nothing'}. {_advice(program)}"
    )


def _advice(program: str) -> str:
    """What a person can do about a program without an answer."""
    asks_database = program in ("sacct", "sacctmgr")
    daemon = "database (slurmdbd)" if asks_database else "controller (slurmctld)"
    return f"Slurm's {daemon} is busy or down; its jobs go on meanwhile. Try again in a few minutes."
