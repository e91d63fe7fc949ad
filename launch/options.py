"""Arguments and options of `sor`: those that several commands take, and those of `init` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch import completion

StudyArg = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", autocompletion=completion.studies,
        help="A YAML file, a name in configs/studies, or the name or run directory of a submitted study.",
    ),
]  # fmt: skip
ClusterOpt = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="NAME", envvar="SOR_CLUSTER", autocompletion=completion.clusters,
        help="A name in configs/clusters, or a YAML file. Default: where it runs already, else 'local'.",
    ),
]  # fmt: skip
RunsOpt = Annotated[
    Path,
    # readable=False: launch.fileerrors explains what cannot be read, in one line.
    typer.Option(
        "--runs", metavar="DIR", envvar="SOR_RUNS", help="Where run directories are.", readable=False
    ),
]
IntervalOpt = Annotated[
    float | None, typer.Option(min=1, help="Seconds between polls; default 5, or 30 where Slurm is asked.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/scripts.md describes.")]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
OnlyOpt = Annotated[str | None, typer.Option("--only", metavar="STAGE", help="Submit this stage only.")]

# of `sor init`
FromOpt = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="NAME", autocompletion=completion.presets,
        help="The shipped study to copy: demo, smollm, pairs or paper.",
    ),
]  # fmt: skip
SizesOpt = Annotated[
    str | None, typer.Option(metavar="A,B", help="Its students: presets, or their sizes as in 0.5B,3B.")
]
RowsOpt = Annotated[
    str | None,
    typer.Option(metavar="ROWS", help="Its rows, for pairs and paper: a file, or ORG/NAME@REVISION."),
]
BenchmarksOpt = Annotated[str | None, typer.Option(metavar="A,B", help="Its groups of benchmarks.")]
GpusOpt = Annotated[int | None, typer.Option(min=0, help="Leave out students that train on more GPUs.")]
ModelOpt = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Write a model's preset instead: ORG/NAME[@REVISION], or a folder."),
]
NewClusterOpt = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a cluster file for this machine's Slurm instead."),
]

# of `sor export`
ExportOpt = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where to. Default: export, in the run directory.", readable=False
    ),
]
PushOpt = Annotated[
    str | None, typer.Option(metavar="NAMESPACE", help="Upload to this user or organization of the hub, too.")
]
PairsOpt = Annotated[bool, typer.Option("--data", help="The pairs, and no student that is not named.")]
StudentsOpt = Annotated[
    str | None, typer.Option(metavar="A,B", help="These students, as in 0.5B-r100,'3B-*', and not the pairs.")
]
