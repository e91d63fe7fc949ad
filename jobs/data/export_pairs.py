"""Write collated pairs as the files of a dataset: `python -m jobs.data.export_pairs OUT FOLDER THINKING`.

Called by `sor export`. OUT is the unit's result, FOLDER an empty folder for Parquet files, THINKING the tags
as JSON. Prints one line of JSON: the number of rows, and the bytes of their texts; or the error. One batch of
rows is in memory at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.data.pairs import PAIRS
from jobs.text.parquet import streamed
from jobs.text.thinking import Thinking

SHARD = 500_000_000  # bytes of a file, about; the hub's viewer and loaders read files in parallel
ROWS = 2000  # rows of a batch
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "prompt", "reasoning", "ift")]
    + [(f"tokens_{name}", pa.int64()) for name in ("prompt", "reasoning", "ift")]
)


def rows(out: Path, thinking: Thinking) -> Iterator[pa.RecordBatch]:
    """Yield the pairs of a collate unit's result, with the columns of SCHEMA.

    A `reasoning` is what a model has to write: the reasoning between its tags, and the answer. So these rows
    can be the `pairs` of a study.
    """
    with streamed(out / PAIRS) as file:
        for batch in file.iter_batches(ROWS):
            parts = zip(batch["reasoning"].to_pylist(), batch["answer"].to_pylist(), strict=True)
            written = pa.array([thinking.written(*both) for both in parts], pa.string())
            tokens = pc.add(batch["tokens_reasoning"], batch["tokens_answer"])
            columns = [
                batch["id"], batch["prompt"], written, batch["ift"],
                batch["tokens_prompt"], tokens, batch["tokens_ift"],
            ]  # fmt: skip
            cast = [column.cast(kind) for column, kind in zip(columns, SCHEMA.types, strict=True)]
            yield pa.record_batch(cast, SCHEMA)


def export(out: Path, folder: Path, thinking: Thinking, shard: int = SHARD) -> dict[str, int]:
    """Write the files train-NUMBER-of-FILES.parquet.

    Args:
        out: The result of a collate unit.
        shard: Bytes after which a file is closed.

    Returns:
        "rows", and "bytes" of the rows in memory.

    Raises:
        OSError, pyarrow.ArrowException: The result cannot be read, or the files cannot be written.
    """
    total = {"rows": 0, "bytes": 0}
    batches, written = rows(out, thinking), list[Path]()
    batch = next(batches, None)
    for number in count():
        written.append(folder / f"{number:05d}.parquet")
        with pq.ParquetWriter(written[-1], SCHEMA, compression="zstd", use_dictionary=False) as file:
            while batch is not None and written[-1].stat().st_size < shard:
                file.write_batch(batch)
                total["rows"] += batch.num_rows
                total["bytes"] += batch.nbytes
                batch = next(batches, None)
        if batch is None:
            break
    for number, path in enumerate(written):
        path.rename(folder / f"train-{number:05d}-of-{len(written):05d}.parquet")
    return total


if __name__ == "__main__":
    try:
        print(json.dumps(export(Path(sys.argv[1]), Path(sys.argv[2]), Thinking(**json.loads(sys.argv[3])))))
    except (OSError, KeyError, pa.ArrowException) as error:  # the caller shows it
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)
