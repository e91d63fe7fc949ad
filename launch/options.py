"""Arguments and options that several commands of `sor` take."""

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
