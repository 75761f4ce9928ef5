"""Names of classes, files and options are UTF-8 in every locale, so that a run is the same run in each."""

import os
import sys


def ensure() -> None:
    """Start this program again in Python's UTF-8 mode where file names are read in another encoding; the console shows what it can."""
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8" and os.environ.get("PYTHONUTF8") != "1":
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")
