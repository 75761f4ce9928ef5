"""Make the golden records again, of every method or of those named:  python -m tests.golden [METHOD ...]

Of closed forms a whole run; of trained methods single steps, each from drawn weights: training enlarges the last bits of a processor.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bench.config import config_hash, resolve
from bench.engine import make_accelerator, run
from methods.config import METHODS
from tests.conftest import QUICK, SMALL
from tests.promises.steps import TRAINED, overrides, steps

HERE = Path(__file__).resolve().parent


def stepped(name: str, accelerator: Accelerator) -> dict[str, Any]:
    """-> of each step its loss, its rates and the norms of its gradient's parts, and the scores after them: as JSON holds it"""
    found = steps(name, accelerator)
    return {
        "config_hash": config_hash(resolve(overrides(name))),
        "losses": found["losses"],
        "rates": found["rates"],
        # Of eight parts, as the length of a whole gradient that is clipped is always the same.
        "gradients": [[float(part.norm()) for part in gradient.double().chunk(8)] for gradient in found["gradients"]],
        "exemplars": {str(label): rows for label, rows in found["exemplars"].items()},
        "stored": [list(one) for one in found["stored"]],
        "scored": found["scored"].to_dict("list"),
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(METHODS):
        if name in TRAINED:
            (HERE / f"{name}.json").write_text(json.dumps(stepped(name, Accelerator(cpu=True)), indent=1) + "\n")
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            config = resolve([f"method={name}", *QUICK.get(name, []), *SMALL])
            _, path = run(config, make_accelerator(config))
            for file in (path, path.with_name(f"{path.stem}-predictions.parquet")):
                (HERE / file.name.replace(path.stem, name)).write_bytes(file.read_bytes())
