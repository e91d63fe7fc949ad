"""The reference answers of prompts, by the prompts' identifiers: 8 bytes of each, and the texts in Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.data.prompts import TEXT, prompt_id
from jobs.data.seen import hashed


class References:
    """Looks up the reference answers of prompts; of two for one prompt, the first one counts.

    Args:
        rows: Batches with two columns: the prompts, and their references, null where there is none.
    """

    def __init__(self, rows: Iterable[pa.RecordBatch]) -> None:
        ids, texts = [np.empty(0, np.uint64)], []
        for batch in rows:
            known = batch.filter(pc.and_(*(column.is_valid() for column in batch.columns)))
            ids.append(hashed(prompt_id(text) for text in known.column(0).to_pylist()))
            texts.append(known.column(1).cast(TEXT))
        self._ids, first = np.unique(np.concatenate(ids), return_index=True)
        self._texts = pa.chunked_array(texts, TEXT).take(pa.array(first))

    def of(self, ids: Sequence[str]) -> list[str | None]:
        """Return the references of these prompts; None for a prompt without one."""
        if not len(self._ids):
            return [None] * len(ids)
        wanted = hashed(ids)
        places = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        known: NDArray[np.bool_] = self._ids[places] == wanted
        found = self._texts.take(pa.array(places, mask=~known)).to_pylist()
        return [text if text and text.strip() else None for text in found]
