"""Make the golden records again, of every method or of those named:  python -m tests.golden [METHOD ...]"""

import contextlib
import sys
import tempfile
from pathlib import Path

from bench.config import resolve
from bench.engine import make_accelerator, run
from methods.config import METHODS
from tests.conftest import QUICK, SMALL

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(METHODS):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            config = resolve([f"method={name}", *QUICK.get(name, []), *SMALL])
            _, path = run(config, make_accelerator(config))
            for file in (path, path.with_name(f"{path.stem}-predictions.parquet")):
                (HERE / file.name.replace(path.stem, name)).write_bytes(file.read_bytes())
            print(f"{name}: {HERE / name}.json")
