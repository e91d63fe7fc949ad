"""The accounts of the test cluster, as commands of sacctmgr."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.habits import Habits

GPUS = "gres/gpu"


def commands(cluster: str, user: str, habits: Habits) -> Iterator[list[str]]:
    """What to call in this order, so that the user has the accounts and limits of a set of habits.

    Args:
        cluster: its name.
        user: who submits jobs, and administers the cluster.
    """
    here = f"Cluster={cluster}"
    yield _manage("add", "cluster", cluster)
    for qos in habits.qos:
        yield _manage("add", "qos", qos.names, *(o for o in qos.options.split() if GPUS not in o))
    for account in habits.accounts:
        yield _manage("add", "account", account.name, here, *account.options.split())
    for row, names in _rows(habits).items():
        own = (f"Account={','.join(names)}", here, "AdminLevel=Admin")
        yield _manage("add", "user", user, *own, *row.split())
    # root has an account of its own already
    yield _manage("modify", "user", user, "set", f"DefaultAccount={habits.accounts[0].name}", "where", here)


def of_gpus(habits: Habits) -> Iterator[list[str]]:
    """What to call once the controller has run: only then do accounts know that there are GPUs."""
    for qos in habits.qos:
        if limits := [option for option in qos.options.split() if GPUS in option]:
            yield _manage("modify", "qos", qos.names, "set", *limits)


def _rows(habits: Habits) -> dict[str, list[str]]:
    """The accounts in which the user has each row: a command takes half a second, for any number of them."""
    rows = dict[str, list[str]]()
    for account in habits.accounts:
        for row in account.rows:
            rows.setdefault(row, []).append(account.name)
    return rows


def _manage(action: str, *words: str) -> list[str]:
    return ["sacctmgr", "--immediate", "--quiet", action, *words]
