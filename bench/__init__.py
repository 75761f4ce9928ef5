"""The harness: the way of a run from its options to its record."""

import sys
from pathlib import Path

root = str(Path(__file__).resolve().parents[1])
if sys.path[0] != root:  # first, as most research folders have a `data` or `methods` of their own
    sys.path.insert(0, root)
