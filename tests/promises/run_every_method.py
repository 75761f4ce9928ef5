"""Every registered method in two processes: closed forms over the small stream, of others single steps; then steps with faults.

Started by `accelerate launch` with the folder of what is found.
"""

import sys
from pathlib import Path

import torch

from bench.config import resolve
from bench.engine import make_accelerator, run
from methods.config import METHODS
from tests.conftest import QUICK, SMALL
from tests.promises.steps import TRAINED, steps, with_faults

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    accelerator = make_accelerator(resolve(["method=ncm", *SMALL]))
    for name in sorted(METHODS):
        if name not in TRAINED:
            run(resolve([f"method={name}", *QUICK.get(name, []), *SMALL, f"results={folder}"]), accelerator)
            continue
        found = steps(name, accelerator)
        if accelerator.is_main_process:
            torch.save(found, folder / f"{name}.pt")
    found = with_faults(accelerator)
    if accelerator.is_main_process:
        torch.save(found, folder / "faults.pt")
    accelerator.end_training()
