"""wandb or TensorBoard, through accelerate's trackers. A tracker that fails is dropped with a warning; the record never depends on it."""

import warnings
from typing import Any

from accelerate import Accelerator


class Tracking:
    def __init__(self, accelerator: Accelerator, project: str, group: str, config: dict[str, Any]):
        self.accelerator, self.step, self.alive = accelerator, 0, True
        flat = {key: value if isinstance(value, (int, float, bool)) else str(value) for key, value in _flatten(config).items()}
        wandb = {"group": group, "job_type": "run", "name": f"{group}/s{config['seed']}"}
        self._try(lambda: accelerator.init_trackers(project, config=flat, init_kwargs={"wandb": wandb}))

    def log(self, values: dict[str, float]) -> None:
        self.step += 1
        self._try(lambda: self.accelerator.log(values, step=self.step))

    def training(self, values: dict[str, float]) -> None:
        """Log what `fit` reports."""
        self.log({f"train/{key}": value for key, value in values.items()})

    def finish(self, summary: dict[str, Any]) -> None:
        numbers = {f"summary/{key}": value for key, value in summary.items() if isinstance(value, (int, float))}
        self.log(numbers)
        self._try(self.accelerator.end_training)

    def _try(self, action: Any) -> None:
        if not self.alive or not self.accelerator.log_with:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - trackers raise anything; none of it may cost a run
            self.alive = False
            warnings.warn(f"the tracker failed ({error.__class__.__name__}: {error}); the run goes on without it", stacklevel=2)


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
