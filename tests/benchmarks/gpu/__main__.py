"""python -m tests.benchmarks.gpu [tiny]: one table. Exit code 1 where a part failed; the others are measured all the same."""

import os
import subprocess
import sys
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
LIMIT = 8 * 60  # seconds after which no further part is begun
FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    OSError,
    ImportError,
    subprocess.SubprocessError,
)


def main() -> int:
    import torch

    card, tiny = torch.cuda.is_available(), "tiny" in sys.argv[1:]
    if not card:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if not tiny:
            print("no GPU here: nothing measured; `python -m tests.benchmarks.gpu tiny` takes the same ways on the CPU")
            return 0
    import accelerate
    import transformers

    from tests.benchmarks.gpu.parts import FULL, PARTS, TINY, cleared

    accelerator = accelerate.Accelerator(cpu=not card, mixed_precision="bf16")
    name = torch.cuda.get_device_name() if card else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}", flush=True)
    start, failed = time.perf_counter(), 0
    for title, part in PARTS.items():
        if time.perf_counter() - start > LIMIT:
            print(f"{title:<72} left out: no time")
            continue
        before = time.perf_counter()
        try:
            for said, value in part(accelerator, TINY if tiny else FULL):
                print(f"{said:<72} {value}", flush=True)
        except FAULTS as error:
            failed += 1
            print(f"{title:<72} FAILED: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)
        cleared()
        print(f"{'':<72} ({time.perf_counter() - before:.0f} s)", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all, {failed} parts failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
