"""Progress bars of what is read and fetched, made in one place, so that `progress=false` hides every one."""

import sys
from typing import Any

from tqdm import tqdm

_shown = True


def show(on: bool) -> None:
    """Show bars from now on, or hide them."""
    global _shown
    _shown = on


def bar(disable: bool = False, **options: Any) -> tqdm:
    return tqdm(file=sys.stderr, disable=disable or not _shown, **options)


def quieten(*libraries: Any) -> None:
    """Hand the choice on to libraries with bars of their own, as `datasets` and `huggingface_hub` have."""
    for library in libraries:
        (library.enable_progress_bars if _shown else library.disable_progress_bars)()
