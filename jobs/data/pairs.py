"""The file of pairs: each prompt once, with its answers in both modes, as collate writes it.

id, prompt                 the prompt, and the hash of its text
reasoning, answer          the teacher's thinking, and the answer that followed it
ift                        the plain answer
tokens_prompt, tokens_reasoning, tokens_answer, tokens_ift
                           the teacher's tokens; null for published pairs. A prompt's tokens are those of
                           the mode with reasoning.
correct_ift, correct_reasoning
                           whether the answer agrees with the reference, null without one; these columns are
                           there if the study's filters compare answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.core.unit import MODES

PAIRS = "pairs.parquet"
TEXTS = ("prompt", "reasoning", "answer", "ift")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", *TEXTS)] + [(f"tokens_{name}", pa.int32()) for name in TEXTS]
)
JUDGED = pa.schema([*SCHEMA, *(pa.field(f"correct_{mode}", pa.bool_()) for mode in MODES)])
ROW_GROUP = 1000  # rows


def write(folder: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema = SCHEMA) -> int:
    """Write batches of pairs as they come; return the number of pairs."""
    kept, waiting = 0, schema.empty_table()
    # Texts are all different: a dictionary of them, or the least and the largest, would only take time.
    with pq.ParquetWriter(folder / PAIRS, schema, use_dictionary=False, write_statistics=False) as file:
        for batch in batches:
            kept += len(batch)
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            while len(waiting) >= ROW_GROUP:
                file.write_table(waiting.slice(0, ROW_GROUP))
                waiting = waiting.slice(ROW_GROUP)
        if len(waiting):
            file.write_table(waiting)
    return kept
