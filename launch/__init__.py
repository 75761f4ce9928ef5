"""How a run is started: the command, sweeps, and files for `accelerate launch` and SLURM."""

import sys
from pathlib import Path

root = str(Path(__file__).resolve().parents[1])
if sys.path[0] != root:  # first, as most research folders have a `data` or `methods` of their own
    sys.path.insert(0, root)
