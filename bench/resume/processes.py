"""Several processes that work on one run: how long they wait for one another, and how one of them knows that another is gone."""

from datetime import timedelta

from accelerate import InitProcessGroupKwargs
from torch.distributed import DistError

from data.errors import InputError

# What gloo says when another process died, or did not answer in time; it raises plain RuntimeErrors.
GONE = ("gloo/transport", "Connection closed by peer", "pair closure", "Timed out waiting")


def joined(cpu: bool, world: int, minutes: float) -> list[InitProcessGroupKwargs]:
    """-> how accelerate is to join `world` processes that wait at most `minutes` for one another. Errors: InputError"""
    if not minutes > 0:
        raise InputError(f"timeout_minutes={minutes:g} must be above 0: set it to what the longest step or evaluation may take")
    backend = {"backend": "gloo"} if cpu else {}
    return [InitProcessGroupKwargs(timeout=timedelta(minutes=minutes), **backend)] if world > 1 else []


def gone(error: BaseException) -> bool:
    """-> does the error mean that another process of the run ended, or does not answer?"""
    return isinstance(error, DistError) or isinstance(error, RuntimeError) and any(word in str(error) for word in GONE)
