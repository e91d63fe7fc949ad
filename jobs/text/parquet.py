"""Open Parquet files that are read piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def streamed(file: Path) -> pq.ParquetFile:
    """Open a file of which one piece after another is read.

    Without buffers read ahead: with them, which is pyarrow's default, all that was read stays in memory until
    the file is closed, and the first batch waits for the whole file.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, pre_buffer=False)
