"""UTF-8 regardless of the locale: login nodes often run with LC_ALL=C or a site-specific locale.

The toolkit opens files as UTF-8 explicitly (tests/test_encoding.py). File names, and files opened by
libraries, follow the interpreter's mode, which is fixed at startup.
"""

from __future__ import annotations

import io
import locale
import os
import sys

VARIABLE = "PYTHONUTF8"  # also read by the interpreters of ranks and keepers


def use_utf8() -> None:
    """Use UTF-8 in this process and its children, and let no character make a print or a question fail.

    If the locale has another encoding, re-execute the program in Python's UTF-8 mode. Input and output still
    use the terminal's encoding.
    """
    os.environ[VARIABLE] = "1"
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    theirs = locale.getencoding().lower()  # the locale's own, even in UTF-8 mode
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # ASCII means that no locale is set: Python and terminals use UTF-8 then.
            known = None if theirs in ("ansi_x3.4-1968", "us-ascii", "ascii") else theirs
            stream.reconfigure(encoding=known, errors="backslashreplace")
