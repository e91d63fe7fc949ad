"""Location of the code and its data files: in a checkout, an installed wheel, or a snapshot of either.

A checkout has `configs/` and `sbatch_templates/` beside the packages. A wheel has them below
`scale_or_reason/`, to avoid collisions with other distributions. A snapshot of the code
(launch/submit/code_snapshot.py) is laid out like a checkout. Nothing else belongs in this module.
"""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).resolve().parents[2]  # folder of the packages launch, jobs and analysis
_WHEEL = CODE / "scale_or_reason"
DATA = _WHEEL if _WHEEL.is_dir() else CODE  # folder of configs and sbatch_templates
