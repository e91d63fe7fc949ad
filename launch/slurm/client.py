"""Client for Slurm's programs: one call per query, with a time limit and a clear error if there is no answer.

Only `submit` and `cancel` change anything. parse.py interprets the answers.
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

from launch.slurm import hardware, limits, parse
from launch.slurm.answers import Answer, refusal, taken, words, would
from launch.slurm.hardware import DefaultMemory, Node
from launch.slurm.limits import Association, Partition, Qos
from launch.slurm.parse import (
    Config,
    Consumed,
    NoAccounting,
    NodeGroup,
    NotSetUp,
    PastJob,
    QueuedJob,
    Refused,
)
from launch.slurm.text import SEPARATOR, Table
from launch.state.errors import SlurmUnavailable
from launch.state.job_ids import JobId

TIMEOUT = 30.0  # seconds; a busy controller answers within a few
PAUSE = 300.0  # seconds for which a database that did not answer is not asked again
# A user's defaults would change formats and selections; variables of an enclosing job would change new jobs.
# What the cluster file takes from SBATCH_ACCOUNT and the like is in each script.
FOREIGN = ("SQUEUE_", "SACCT_", "SINFO_", "SBATCH_", "SLURM_")
CONF = "SLURM_CONF"
SHOWN = 15.0  # seconds for which the queue is polled for a job whose id sbatch did not print
PER_CLUSTER = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")  # these accept --clusters
HEADING = "CLUSTER: "  # their line before the output for a cluster, in some versions
NOT_SET_UP = "establish a configuration source"  # Slurm's message when it finds no slurm.conf


class SlurmClient:
    """Slurm as configured on this machine; SLURM_CONF selects a configuration other than the default.

    Every query raises SlurmUnavailable if it gets no answer within `timeout` seconds.

    Args:
        cluster: the name of another cluster that Slurm's programs can reach here, as with their --clusters.
    """

    def __init__(self, timeout: float = TIMEOUT, cluster: str | None = None) -> None:
        self.cluster = cluster
        self._timeout = timeout
        self._silent: SlurmUnavailable | None = None
        self._silent_until = 0.0
        self._config: Config | None = None

    def queue(self) -> Table[QueuedJob]:
        """Return all jobs of this user that the controller knows, including those that ended a while ago.

        Slurm does not filter by name: one call gets all jobs, and a study's are selected afterwards. Pending
        elements of an array share a line, which takes a tenth of the time of a line each.
        """
        form = f"--format={SEPARATOR.join(parse.QUEUE)}"
        return parse.parse_queue(self._ask("squeue", "--all", "--noheader", "--me", "--states=all", form))

    def history(self, since: int) -> Table[PastJob]:
        """Return runs of this user's jobs since a time after 0; some seconds behind, without pending jobs.

        Raises:
            NoAccounting: the cluster keeps none; `associations` and `qos` raise it, too.
        """
        return parse.parse_history(self._past(since, parse.HISTORY, "--allocations"))

    def memory(self, jobs: Iterable[str], since: int) -> dict[tuple[str, str], tuple[int, int]]:
        """Return the MiB per node that jobs, by name and id, requested and used. Raises like `history`."""
        return parse.parse_memory(self._past(since, parse.MEMORY, f"--jobs={','.join(jobs)}"))

    def energy(self, since: int) -> Table[Consumed]:
        """Return the energy used by steps of this user's jobs since a time. Raises like `history`."""
        return parse.parse_energy(self._past(since, parse.ENERGY))

    def config(self) -> Config:
        """Return the controller's settings, which are asked for once."""
        if self._config is None:
            self._config = parse.parse_config(self._ask("scontrol", "show", "config"))
        return self._config

    def partitions(self) -> Table[Partition]:
        """Return all partitions, including hidden ones, since jobs may name them."""
        return limits.parse_partitions(self._ask("scontrol", "--all", "--oneliner", "show", "partition"))

    def nodes(self) -> Table[NodeGroup]:
        """Return the nodes of every partition, in groups of identical ones."""
        form = SEPARATOR.join(parse.NODES)
        return parse.parse_nodes(self._ask("sinfo", "--all", "--noheader", "--exact", f"--format={form}"))

    def each_node(self) -> Table[Node]:
        """Return the nodes one by one; there may be thousands."""
        return hardware.parse_each_node(self._ask("scontrol", "--all", "--oneliner", "show", "node"))

    def default_memory(self) -> dict[str, DefaultMemory]:
        """Return what jobs get that request no memory, by partition."""
        partitions = self._ask("scontrol", "--all", "--oneliner", "show", "partition")
        return hardware.parse_default_memory(partitions, self._ask("scontrol", "show", "config"))

    def associations(self, cluster: str) -> Table[Association]:
        """Return this user's rows, then those of all accounts, which hold the limits of groups."""

        def ask(fields: tuple[str, ...], user: str) -> str:
            return self._manager("association", fields, "where", f"cluster={cluster}", f"user={user}")

        # Slurm 22.05 takes a quarter of a second for each, and a third for both kinds of fields in one.
        with ThreadPoolExecutor() as pool:
            others = pool.submit(ask, limits.ASSOCIATION, "")
            services = pool.submit(ask, limits.SERVICES, _user())
            own = ask(limits.ASSOCIATION, _user())
            return limits.parse_associations(f"{own}\n{others.result()}", services.result())

    def qos(self) -> Table[Qos]:
        """Return all qualities of service."""
        return limits.parse_qos(self._manager("qos", limits.QOS))

    def submit(self, script: Path) -> JobId:
        """Submit a script and return the job's id. The job's name must be that of the script's folder.

        If sbatch prints no id, the queue is searched for the job's name.

        Raises:
            Refused: Slurm has rejected the job.
            SlurmUnavailable: it is unknown whether Slurm has accepted the job.
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
            f"'sbatch' {how}, so it is unknown whether Slurm accepted job {name}: the next submit looks for "
            f"a job of that name. sbatch printed: {'; '.join(words(said)) or 'nothing'}. "
            f"{_advice('sbatch')}"
        )

    def would(self, script: str) -> Answer:
        """Return what the site would do with a script, without submitting it.

        Raises:
            SlurmUnavailable: no answer in time.
        """
        done = self._run("sbatch", "--test-only", given=script)
        return would(f"{done.stderr}\n{done.stdout}")

    def _named(self, name: str) -> JobId | None:
        """Return the id of the job of this name, once the queue shows one.

        Returns:
            None if it shows none for `SHOWN` seconds.
        """
        until = time.monotonic() + SHOWN
        while True:
            found = [row for row in self.queue().rows if row.name == name]
            if found or time.monotonic() > until:
                return JobId(found[0].array, self.cluster) if found else None
            time.sleep(1)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs, or elements of arrays; canceling those that have ended is not an error."""
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
        return text.replace("|", SEPARATOR)  # its separator is fixed, and no field contains a bar

    def _database(self, *command: str) -> str:
        """Query slurmdbd, which may be down for days; a monitor must not wait for it again and again."""
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

    def _run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        if self.cluster is not None and command[0] in PER_CLUSTER:
            command = command[0], f"--clusters={self.cluster}", *command[1:]
        conf = os.environ.get(CONF)
        if conf and not Path(conf).exists():  # Slurm's programs would wait a minute for it
            raise NotSetUp(f"SLURM_CONF names {conf}, which does not exist: set it to your slurm.conf")
        own = {k: v for k, v in os.environ.items() if k == CONF or not k.startswith(FOREIGN)}
        environment = {**own, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}  # 0: never truncate lists
        try:
            return subprocess.run(
                command, env=environment, capture_output=True, encoding="utf-8", errors="replace",
                input=given, timeout=self._timeout, check=False,
                preexec_fn=_die_with_parent if command[0] == "sbatch" else None,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise NotSetUp(f"'{command[0]}' is not installed here: use a login node") from error
        except subprocess.TimeoutExpired as error:
            said = "; ".join(
                words(b"\n".join(filter(None, (error.stderr, error.stdout))).decode(errors="replace"))
            )
            raise SlurmUnavailable(
                f"'{command[0]}' got no answer within {self._timeout:g} s{said and f', and said: {said}'}. "
                f"{_advice(command[0])}"
            ) from error


_prctl = ctypes.CDLL(None).prctl  # resolved before any fork
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel kill this process with the thread that started it, and so with the main program.

    An sbatch that kept retrying alone would submit unexpectedly.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name  # as Slurm does, whatever LOGNAME is


def _fail(program: str, said: str) -> NoReturn:
    if "accounting storage is disabled" in said or "not running a supported accounting_storage" in said:
        raise NoAccounting("this cluster has no accounting (its AccountingStorageType is 'none')")
    if NOT_SET_UP in said:
        raise NotSetUp("Slurm's programs found no slurm.conf: set SLURM_CONF to its path")
    raise SlurmUnavailable(
        f"'{program}' failed and said: {'; '.join(words(said)) or 'nothing'}. {_advice(program)}"
    )


def _advice(program: str) -> str:
    """Return what a person can do about a program that does not answer."""
    asks_database = program in ("sacct", "sacctmgr")
    daemon = "database (slurmdbd)" if asks_database else "controller (slurmctld)"
    return f"Slurm's {daemon} is busy or down; jobs continue meanwhile. Try again in a few minutes."
