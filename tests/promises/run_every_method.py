"""Run every registered method on the small stream; started by `accelerate launch` with the folder of the records."""

import sys

from bench.config import resolve
from bench.engine import make_accelerator, run
from methods.config import METHODS
from tests.conftest import QUICK, SMALL

if __name__ == "__main__":
    accelerator = None
    for name in sorted(METHODS):
        config = resolve([f"method={name}", *QUICK.get(name, []), *SMALL, f"results={sys.argv[1]}"])
        accelerator = accelerator or make_accelerator(config)
        run(config, accelerator)
    accelerator.end_training()
