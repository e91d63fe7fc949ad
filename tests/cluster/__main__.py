"""Start or end a test cluster by hand: `make slurm-up`, `make slurm-down`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster import Cluster, ClusterError, Shape, config, packages


def main() -> int:
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--nodes", type=int, default=Shape.nodes)
    parser.add_argument("--cpus", type=int, default=Shape.cpus, help="of a node")
    parser.add_argument("--gpus", type=int, default=Shape.gpus, help="of a node")
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd and MariaDB")
    args = parser.parse_args()
    shape = {"nodes": args.nodes, "cpus": args.cpus, "gpus": args.gpus, "accounting": not args.no_accounting}
    cluster = Cluster(Path(f"/tmp/slurm-of-{config.user()}"), **shape)
    return up(cluster) if args.action == "up" else down(cluster)


def up(cluster: Cluster) -> int:
    """Start it, unless it runs, and say how to use it."""
    if cluster.processes.alive("slurmctld"):
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
        print(f"{len(cluster.nodes)} nodes, {cluster.shape.gpus} GPUs each (they only look like it)")
    print(f"use it:  export SLURM_CONF={cluster.conf}\nend it:  make slurm-down")
    return 0


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
