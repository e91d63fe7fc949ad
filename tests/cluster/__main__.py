"""Start or end a test cluster by hand: `make slurm-up`, `make slurm-down`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster import Cluster, ClusterError, Shape, centers, config, packages


def main() -> int:
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--nodes", type=int, default=Shape.nodes)
    parser.add_argument("--cpus", type=int, default=Shape.cpus, help="of a node")
    parser.add_argument("--gpus", type=int, default=Shape.gpus, help="of a node")
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd and MariaDB")
    parser.add_argument(
        "--like", default="", choices=list(centers.CENTERS), help="a center, whose nodes and habits it has"
    )
    args = parser.parse_args()
    if args.like and args.no_accounting:
        parser.error("the habits of a center are about accounts: leave out --no-accounting")
    shape = {"nodes": args.nodes, "cpus": args.cpus, "gpus": args.gpus, "accounting": not args.no_accounting}
    cluster = Cluster(Path(f"/tmp/slurm-of-{config.user()}"), **shape, like=args.like)
    return up(cluster) if args.action == "up" else down(cluster)


def up(cluster: Cluster) -> int:
    """Start it, unless it runs, and say how to use it."""
    if cluster.processes.alive("slurmctld"):
        running = cluster.run("scontrol", "show", "config")
        if not re.search(rf"^ClusterName *= {cluster.shape.name}$", running, re.MULTILINE):
            print("another cluster is up: make slurm-down ends it", file=sys.stderr)
            return 1
        print("the cluster is up already")
    else:
        why = packages.install()
        if why:
            print(why, file=sys.stderr)
            return 1
        if cluster.scratch.exists():  # after a crash or a restart of the machine
            cluster.stop()
        try:
            _start(cluster)
        except ClusterError as error:
            print(f"slurm-up: {error}", file=sys.stderr)
            return 1
        for of in cluster.habits.nodes:
            print(f"{of.count} nodes, {of.gpus} GPUs each (they only look like it)")
    print(f"use it:  export {' '.join(_variables(cluster))}\nend it:  make slurm-down")
    return 0


def _variables(cluster: Cluster) -> Iterator[str]:
    """What a shell has to export, so that Slurm's programs talk to the cluster as a user of it."""
    yield f"SLURM_CONF={cluster.conf}"
    if cluster.shape.like:
        yield f"SBATCH_ACCOUNT={cluster.habits.account}"
    if cluster.habits.wrapper:
        yield f"PATH={config.programs(cluster.scratch)}:$PATH"


def _start(cluster: Cluster) -> None:
    """Start it; on any failure end what was started."""
    try:
        cluster.scratch.mkdir()
        cluster.start()
    except BaseException:
        cluster.stop()
        raise


def down(cluster: Cluster) -> int:
    """End it."""
    if not cluster.scratch.exists():
        print("there is no cluster")
        return 0
    cluster.stop()
    print("the cluster is down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
