"""Write what the README says of the methods anew, between its two marks:  python -m launch.readme"""

from pathlib import Path

from data.errors import InputError
from methods.papers import table

README = Path(__file__).resolve().parents[1] / "README.md"
OPENS, CLOSES = "<!-- methods -->", "<!-- /methods -->"


def filled(text: str) -> str:
    """-> a text with the table of methods between its marks; where only the first is there, the second is set. Errors: InputError"""
    before, mark, after = text.partition(OPENS)
    if not mark:
        raise InputError(f"the README has no line {OPENS}: put it where the table of methods is to stand")
    _, closed, rest = after.partition(CLOSES)
    return "\n".join([f"{before}{mark}", *table(), CLOSES]) + (rest if closed else after)


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
