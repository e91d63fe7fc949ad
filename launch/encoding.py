"""UTF-8 everywhere, whatever the locale: login nodes often run with LC_ALL=C, or a locale of one site's own.

Files are opened as UTF-8 explicitly (tests/test_encoding.py). File names, and what libraries open, follow the
interpreter's own mode, which only a new interpreter can change.
"""

from __future__ import annotations

import io
import locale
import os
import sys

VARIABLE = "PYTHONUTF8"  # read by every interpreter that starts: of ranks, of keepers


def use_utf8() -> None:
    """Have this process and all that it starts use UTF-8, and let no character stop a print.

    Starts the program anew, in Python's UTF-8 mode, where the locale has another encoding. What is printed is
    in the terminal's encoding still.
    """
    os.environ[VARIABLE] = "1"
    if sys.getfilesystemencoding().lower() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    theirs = locale.getencoding().lower()  # also where UTF-8 mode hides it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Python takes ASCII, the encoding of no locale at all, for UTF-8; so do terminals.
            known = None if theirs in ("ansi_x3.4-1968", "us-ascii", "ascii") else theirs
            stream.reconfigure(encoding=known, errors="backslashreplace")
