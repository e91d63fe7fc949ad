"""Where the code and its data files are: in a checkout, in an installed wheel, in a snapshot of either.

A checkout has `configs/` and `sbatch_templates/` beside the packages. A wheel carries them below
`scale_or_reason/`, so that they cannot collide with the files of other distributions. A snapshot of the code
(launch/submit/code_snapshot.py) is laid out like a checkout. Nothing else belongs in this module.
"""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).resolve().parents[2]  # the folder of the packages launch, jobs and analysis
_WHEEL = CODE / "scale_or_reason"
DATA = _WHEEL if _WHEEL.is_dir() else CODE  # the folder of configs and sbatch_templates
