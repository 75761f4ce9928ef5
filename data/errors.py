"""The one exception for what a user can mend: a sentence that names the thing and the remedy."""

import difflib
import re
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # which a name may hold, and which would break the line or the terminal


class InputError(ValueError):
    """Wrong input. `bench/run.py` prints the message alone and exits with code 2."""

    def __init__(self, sentence: str):
        # A DataLoader's worker process sends the whole traceback in place of the sentence, which stands last in it.
        sentence = sentence.rpartition("data.errors.InputError: ")[2].strip()
        super().__init__(CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), sentence))


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """-> the error for a name that is not in `known`, with the nearest names that are"""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(known)}."
    return InputError(f"unknown {kind} '{name}': {hint}")


def one_of(kind: str, name: str, known: Iterable[str]) -> None:
    """Errors: InputError where `name` is not in `known`."""
    if name not in known:
        raise unknown(kind, name, known)
