"""`sor init --cluster FILE`: a cluster file to start from. Existing files are never overwritten."""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from jobs.core.gpus import gpu, gpu_memory
from launch.commands.partitions import described, gpus_of
from launch.slurm.client import SlurmClient
from launch.slurm.limits import Partition
from launch.slurm.parse import NodeGroup
from launch.state.errors import SlurmUnavailable
from launch.study.cluster import load_cluster
from launch.study.presets import CONFIGS, Mistake, StudyError, is_file_name, known_names
from launch.submit.limits import user_groups

HOURS = 24.0  # requested at most where the partition sets no limit
CORES = 8  # at most, per GPU, where the cluster has none
SHOWN = 12  # partitions that the file lists
TEMPLATE = """\
# Cluster {name}, written by 'sor init --cluster' from what Slurm reports.
backend: slurm
gpu: {gpu}
{memory}# Assumptions of time estimates: the fraction of a GPU's peak that stages reach, and a core's rate.
efficiency: {{generate: 0.10, train: 0.35, evaluate: 0.10}}
cpu_gflops: 15
cpus_per_gpu: {cores}
{node}max_hours: {hours}   # upper bound on requested time; {limit}
mtbf_hours: 24   # mean time between failures without warning; lower values give more checkpoints
slurm:
  template: {template}   # in sbatch_templates: plain, modules, apptainer, pyxis, or your own
  sbatch: {sbatch}
{more}
  # keeper: 300   # a job that continues the study unattended; only where jobs may submit jobs; else sor keep
"""


def write_cluster(file: Path) -> str:
    """Ask this machine's Slurm, write a cluster file for it, and return the command that comes next.

    Raises:
        StudyError: the file exists, or Slurm has no partition that can be used.
        SlurmUnavailable: Slurm does not answer.
    """
    refuse(file)
    client = SlurmClient()
    config = client.config()
    accounts: list[str] = []
    with suppress(SlurmUnavailable):  # without accounting, or its answer, none are known
        rows = client.associations(config.cluster).rows if config.accounting else ()
        accounts = list(dict.fromkeys(row.account for row in rows if row.user))
    partitions, nodes = client.partitions().rows, client.nodes().rows
    mine = [p for p in partitions if _may_use(p, accounts)]
    write_new(file, "cluster", cluster_text(config.cluster, mine, nodes, accounts))
    load_cluster(str(file))
    check = shlex.join(["sor", "doctor", "--cluster", str(file)])
    words = f"wrote {file}. To check it, with a short job on a node: {check}"
    if config.cluster in known_names("clusters"):
        words += f"\nA profile of that name is shipped, and knows more: sor doctor --cluster {config.cluster}"
    return words


def write_new(file: Path, kind: str, text: str) -> None:
    """Write a file that does not exist, below a line by which editors find the JSON Schema of its kind.

    Raises:
        StudyError: see `refuse`.
    """
    refuse(file)
    schema = CONFIGS / "schema" / f"{kind}.json"
    with file.open("x", encoding="utf-8") as made:
        made.write(f"# yaml-language-server: $schema={schema.as_uri()}\n{text}")


def refuse(file: Path) -> None:
    """Refuse to write a file that exists, cannot be written, or that no study or command line could name.

    Raises:
        StudyError: it is one of these.
    """
    if os.path.lexists(file):
        raise StudyError([Mistake(file, "", "exists already: name another file, or remove it")])
    if not is_file_name(file.name):
        raise StudyError([Mistake(file, "", "a name that ends in .yaml is needed")])
    if not file.parent.is_dir():
        raise StudyError([Mistake(file, "", "no such folder. Name a file in a folder that exists")])
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise StudyError([Mistake(file, "", f"you may not write to {file.parent.absolute()}")])


def _may_use(partition: Partition, accounts: Sequence[str]) -> bool:
    """Return whether a partition is open to the user's groups and to one of the accounts."""
    groups, own = user_groups(), set(accounts)
    return (not groups or partition.groups.admits(groups)) and (not own or partition.accounts.admits(own))


def cluster_text(
    name: str, partitions: Sequence[Partition], nodes: Sequence[NodeGroup], accounts: Sequence[str]
) -> str:
    """Return a commented cluster file. Pure, but for the programs and modules that it mentions.

    Args:
        name: of the cluster.
        accounts: that the user may use.

    Raises:
        StudyError: no partition accepts jobs.
    """
    usable = [p for p in partitions if p.state in ("UP", "DOWN") and p.nodes]
    if not usable:
        raise StudyError([Mistake(Path(name), "", "no partition of this cluster accepts jobs")])
    with_gpus = [p for p in usable if gpus_of(p, nodes)]
    main = _chosen(with_gpus or usable, nodes)
    kinds = gpus_of(main, nodes)
    kind, rated = _main_gpu(kinds)
    sbatch = {"partition": main.name, **({"account": accounts[0]} if len(accounts) == 1 else {})}
    more = [
        f"  # partition {p.name}{' (the default)' if p.default else ''}: {described(p, nodes)}"
        for p in [main, *(p for p in usable if p != main)][:SHOWN]
    ]
    if usable[SHOWN:]:
        more.append(f"  # and {len(usable) - SHOWN} more, as sinfo lists them")
    if accounts[1:]:
        more.append(f"  # your accounts: {', '.join(accounts)}; without 'account' in sbatch, Slurm's default")
    if len(kinds) > 1:
        others = ", ".join(other for other in kinds if other != kind)
        more.append(f"  gpu_option: gres=gpu:{kind}:{{gpus}}   # the partition also has {others}")
    if with_gpus and (without := [p for p in usable if p not in with_gpus]):
        more += _cpu_stages(_chosen(without, nodes))
    modules = "MODULESHOME" in os.environ or "LMOD_CMD" in os.environ
    if modules:
        more.append("  variables: {modules: []}   # names that 'module avail' lists, as [cuda, python]")
    for program in ("apptainer", "singularity"):
        if shutil.which(program):
            more.append(f"  # {program} is installed: with the template apptainer, jobs run in a container")
    return TEMPLATE.format(
        name=name,
        gpu=rated,
        memory=_memory(kind),
        node=_node(kind, [g for g in nodes if g.partition == main.name]),
        cores=_cores([g for g in nodes if g.partition == main.name and (g.gpus or not with_gpus)]),
        hours=f"{main.max_seconds / 3600 if main.max_seconds else HOURS:g}",
        limit=f"partition {main.name} {'allows no more' if main.max_seconds else 'has no limit'}",
        template="modules" if modules else "plain",
        sbatch=_flow(sbatch),
        more="\n".join(more),
    )


def _chosen(partitions: Sequence[Partition], nodes: Sequence[NodeGroup]) -> Partition:
    """Return the default partition if it is among these, else the one with the most GPUs, or nodes."""
    return max(partitions, key=lambda p: (p.default, gpus_of(p, nodes).total(), p.nodes))


def _main_gpu(kinds: Counter[str]) -> tuple[str, str]:
    """Return the type of GPU to use, as Slurm calls it, and its name in the table of rates.

    Slices of GPUs are in no table; where nothing is, the name is a default with a comment that asks for it.
    """
    for kind, _ in kinds.most_common():
        with suppress(ValueError):
            return kind, gpu(kind)
    why = f"Slurm calls its GPUs {', '.join(kinds)}" if kinds else "Slurm lists no GPUs here"
    return next(iter(kinds), ""), f"h100   # {why}: set a name from jobs/core/gpus.py"


def _memory(kind: str) -> str:
    """Return the setting for the memory of a GPU, as far as Slurm's name for its type says it."""
    try:
        size, certain = gpu_memory(kind)
    except ValueError:
        return "# gpu_memory: 80   # of each GPU, in GiB\n"
    if certain:
        return f"gpu_memory: {size:g}   # of each GPU, in GiB\n"
    return f"# gpu_memory: {size:g}   # of each GPU, in GiB: the smallest of its kind, set what yours have\n"


def _cpu_stages(partition: Partition) -> list[str]:
    """Return the settings of the stages that need no GPU."""
    stages = ("prepare", "collate", "tokenize", "report")
    return ["  stages:", *(f"    {stage}: {_flow({'partition': partition.name})}" for stage in stages)]


def _flow(options: dict[str, str]) -> str:
    """Return options as YAML in one line."""
    return str(yaml.safe_dump(options, default_flow_style=True, sort_keys=False, width=10_000)).strip()


def _node(kind: str, groups: Sequence[NodeGroup]) -> str:
    """Return the setting for the GPUs of a node; nothing where Slurm lists none of this type."""
    numbers = Counter[int]()
    for group in groups:
        if number := dict(group.gpus).get(kind):
            numbers[number] += group.count
    return f"gpus_per_node: {numbers.most_common(1)[0][0]}\n" if numbers else ""


def _cores(groups: Sequence[NodeGroup]) -> int:
    """Return the cores that nodes have per GPU."""
    per_gpu = [group.cpus // sum(count for _, count in group.gpus) for group in groups if group.gpus]
    return max(1, min(per_gpu, default=min([CORES, *(group.cpus for group in groups)])))
