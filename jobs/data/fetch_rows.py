"""Load a dataset of the hub as jobs do, so that it is in the cache: `python -m jobs.data.fetch_rows SPEC`.

Called by `sor prefetch`. SPEC is an entry of a unit's `prompts` or `pairs`, as JSON. Prints one line: the
number of rows, or the error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from jobs.data.prompts import load_rows


def fetch(spec: dict[str, Any]) -> str:
    """Load the dataset, and return what was loaded, in words.

    Raises:
        Exception: as `datasets.load_dataset`.
    """
    loaded = load_rows(spec)
    for file in loaded.cache_files:
        # Without a network, `datasets` takes the folder that changed last, of whatever commit.
        os.utime(os.path.dirname(file["filename"]))
    return f"{loaded.num_rows} rows"


if __name__ == "__main__":
    try:
        print(fetch(json.loads(sys.argv[1])))
    except Exception as error:  # of many libraries; the caller shows it
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)
