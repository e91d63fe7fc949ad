"""Asking Slurm: one program a question, each with a time limit and a clear word where there is no answer.

Nothing here changes anything in Slurm. What the answers mean is slurm.py's business.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import NoReturn

from launch import slurm
from launch.slurm import (
    Association,
    Config,
    NoAccounting,
    NodeGroup,
    NotSetUp,
    Partition,
    PastJob,
    Qos,
    QueuedJob,
    SlurmUnavailable,
    Table,
)

TIMEOUT = 30.0  # seconds; a busy controller answers within a few
FOREIGN = ("SQUEUE_", "SACCT_", "SINFO_")  # a person's own defaults would change formats and selections
DATABASE = ("sacct", "sacctmgr")  # the programs that ask slurmdbd, not slurmctld
NOT_SET_UP = "establish a configuration source"  # Slurm's words when it finds no slurm.conf


class Controller:
    """The Slurm that this machine belongs to; SLURM_CONF tells where that is not the usual one.

    Every question raises SlurmUnavailable when it gets no answer within `timeout` seconds.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout

    def queue(self) -> Table[QueuedJob]:
        """All jobs of this user that the controller knows, also those that ended a while ago.

        Slurm sorts out nothing by name: a study's jobs are told by it afterwards, in one call for all.
        """
        form = slurm.SEPARATOR.join(slurm.QUEUE)
        return slurm.parse_queue(
            self._ask("squeue", "--noheader", "--array", "--me", "--states=all", f"--format={form}")
        )

    def history(self, since: int) -> Table[PastJob]:
        """Runs of this user's jobs since a time after 0; some seconds behind, and without those that wait.

        Raises:
            NoAccounting: the cluster keeps none.
        """
        return slurm.parse_history(
            self._ask(
                "sacct", "--allocations", "--duplicates", "--noheader", "--parsable2",
                f"--delimiter={slurm.SEPARATOR}", f"--user={_user()}", f"--starttime=uts{since}",
                f"--format={','.join(slurm.HISTORY)}",
            )
        )  # fmt: skip

    def config(self) -> Config:
        """The controller's settings."""
        return slurm.parse_config(self._ask("scontrol", "show", "config"))

    def partitions(self) -> Table[Partition]:
        """The partitions that this user sees."""
        return slurm.parse_partitions(self._ask("scontrol", "--oneliner", "show", "partition"))

    def nodes(self) -> Table[NodeGroup]:
        """The nodes of every partition, in groups of equal ones."""
        form = slurm.SEPARATOR.join(slurm.NODES)
        return slurm.parse_nodes(self._ask("sinfo", "--noheader", "--exact", f"--format={form}"))

    def associations(self, cluster: str) -> Table[Association]:
        """This user's rows, then those of all accounts, which the limits of groups stand in.

        Raises:
            NoAccounting: the cluster keeps none.
        """
        answers = [
            self._manager("association", slurm.ASSOCIATION, "where", f"cluster={cluster}", f"user={user}")
            for user in (_user(), "")
        ]
        return slurm.parse_associations("\n".join(answers))

    def qos(self) -> Table[Qos]:
        """All qualities of service.

        Raises:
            NoAccounting: the cluster keeps none.
        """
        return slurm.parse_qos(self._manager("qos", slurm.QOS))

    def _manager(self, kind: str, fields: tuple[str, ...], *where: str) -> str:
        text = self._ask(
            "sacctmgr", "--noheader", "--parsable2", "show", kind, *where, f"format={','.join(fields)}"
        )
        return text.replace("|", slurm.SEPARATOR)  # it has no choice of a separator, and no field with a bar

    def _ask(self, *command: str) -> str:
        conf = os.environ.get("SLURM_CONF")
        if conf and not Path(conf).exists():  # Slurm's programs would wait for it for a minute
            raise NotSetUp(f"SLURM_CONF names {conf}, which is not there: set it to the cluster's slurm.conf")
        own = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        environment = {**own, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}  # 0: lists are never cut
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, timeout=self._timeout, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise SlurmUnavailable(f"'{command[0]}' is not installed here: use a login node") from error
        except subprocess.TimeoutExpired as error:
            raise SlurmUnavailable(
                f"'{command[0]}' got no answer within {self._timeout:g} s. {_advice(command[0])}"
            ) from error
        if done.returncode:
            _fail(command[0], done.stderr or done.stdout)
        return done.stdout


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name  # what Slurm goes by, whatever LOGNAME says


def _fail(program: str, said: str) -> NoReturn:
    if "accounting storage is disabled" in said or "not running a supported accounting_storage" in said:
        raise NoAccounting("this cluster keeps no accounts (its AccountingStorageType is 'none')")
    if NOT_SET_UP in said:
        raise NotSetUp("Slurm's programs found no slurm.conf: set SLURM_CONF to the cluster's")
    last = said.strip().splitlines()[-1] if said.strip() else "nothing"
    raise SlurmUnavailable(f"'{program}' failed and said: {last}. {_advice(program)}")


def _advice(program: str) -> str:
    """What a person can do about a program without an answer."""
    daemon = "database (slurmdbd)" if program in DATABASE else "controller (slurmctld)"
    return f"Slurm's {daemon} is busy or down; its jobs go on meanwhile. Try again in a few minutes."
