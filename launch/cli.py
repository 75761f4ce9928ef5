"""The `cilbench` command. Each part imports only what it needs, so that listing is fast."""

import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # as in bench/run.py: started as a script

from data.errors import InputError, unknown
from data.utf8 import ensure

USAGE = """usage: cilbench COMMAND ...

  run [key=value ...]           run one method over one stream (accelerate launch bench/run.py does it on several processes)
  sweep [key=value ...]         run a grid of methods, streams and seeds; what has a complete record is skipped
  rescore RECORD method.scoring=likelihood   score a finished run again by another rule, without training
  ls methods|streams|vlms|experiments
  leaderboard [DIR]             tables and a page from the records in DIR (results/); --scratch, --bytes N, --rule R filter them
  report [DIR]                  a wandb Report from the records in DIR and the runs logged with tracker=wandb
  compare A [B]                 do two sets of records, or two versions of the code in one, differ beyond seed noise? exit code 1 if so
  show RECORD [--plots]         one run as a table; with --plots its curve and matrix as PNG beside it
  validate PATH ...             is every record sound and unedited, and of which version? exit code 1 if not
  cache [clear [KIND]]          what the cache holds; remove it, or one kind of it

cilbench COMMAND --help says more."""


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0, 1 where the command's answer is no, 2 for wrong input (one sentence on standard error)"""
    if arguments is None:
        ensure()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("--help", "-h"):
        print(USAGE)
        return 0
    try:
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        if name in PLAIN and {"--help", "-h"} & set(rest):
            print(PLAIN[name])
            return 0
        return COMMANDS[name](rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    from bench.run import main

    return main(arguments)


def _sweep(arguments: list[str]) -> int:
    from launch.sweep import main

    return main(arguments)


def _rescore(arguments: list[str]) -> int:
    from bench.rescore import main

    return main(arguments)


def _leaderboard(arguments: list[str]) -> int:
    from bench.board.leaderboard import main

    return main(arguments)


def _report(arguments: list[str]) -> int:
    from bench.board.report import main

    return main(arguments)


def _compare(arguments: list[str]) -> int:
    from bench.board.compare import main

    return main(arguments)


def _list(arguments: list[str]) -> int:
    kinds = ("methods", "streams", "vlms", "experiments")
    if len(arguments) != 1:
        raise InputError(f"ls takes one of {', '.join(kinds)}")
    if arguments[0] not in kinds:
        raise unknown("kind", arguments[0], kinds)
    from methods.papers import line

    print(*(map(line, listed("methods")) if arguments[0] == "methods" else listed(arguments[0])), sep="\n")
    return 0


def listed(kind: str) -> list[str]:
    """-> the names that `method=`, `stream=`, `method.vlm=` or `experiment=` take, those of installed plugins among them"""
    if kind == "vlms":
        from methods.gmm.models import VLMS

        return sorted(VLMS)
    from bench import config

    config.load_plugins([])
    if kind == "experiments":
        return config.preset_names()
    return sorted(config.METHODS if kind == "methods" else config.stream_names())


def _show(arguments: list[str]) -> int:
    from bench import record, table

    paths = [argument for argument in arguments if argument != "--plots"]
    if len(paths) != 1 or paths[0].startswith("-"):
        raise InputError("show takes one record: cilbench show results/STREAM/METHOD/FILE.json [--plots]")
    found = record.read(Path(paths[0]))
    table.show(found, paths[0])
    if "--plots" in arguments:
        from bench.board.plots import write_plots

        print("written:", *write_plots(found, Path(paths[0])))
    return 0


def _validate(arguments: list[str]) -> int:
    from bench import record
    from bench.board.collect import refusal

    if not arguments:
        raise InputError("validate takes records or folders of records: cilbench validate results")
    bad, schemas = 0, Counter()
    for place in map(Path, arguments):
        if not place.exists():
            raise InputError(f"{place} does not exist: name a record or a folder of records")
        if not (paths := record.find(place)):
            raise InputError(f"{place} holds no record: name the folder that the runs wrote to")
        for path in paths:
            try:
                found = record.read(path)
                schemas[found["schema"]] += 1
                reason = refusal(found | {"limited": False}) or _predictions(path, found)
            except InputError as error:
                reason = str(error).removeprefix(f"{path} ")
                schemas[None] += 1
            if reason:
                bad += 1
                print(f"{path}: {reason}")
    print(f"{schemas.total() - bad} of {schemas.total()} records are sound")
    for schema, what in record.READ.items():
        if schemas[schema]:
            print(f"{schemas[schema]} of schema {schema}: {what}")
    return int(bad > 0)


def _predictions(path: Path, found: dict) -> str | None:
    """-> what is wrong with the predictions beside a sound record; None if they are what it counts, or not there"""
    from bench.board.details import final

    try:
        if path.with_name(f"{path.stem}-predictions.parquet").exists():
            final(path, found)
    except InputError as error:
        return str(error)
    return None


def _cache(arguments: list[str]) -> int:
    from bench.table import size
    from data.caching import entries
    from data.caching.cache import cache_root

    if arguments and arguments[0] != "clear":
        raise unknown("command of cache", arguments[0], ["clear"])
    if len(arguments) > 2:
        raise InputError(f"cache clear takes one kind at most: {', '.join(entries.KINDS)}")
    if arguments:
        gone, kept = entries.clear(*arguments[1:])
        print(f"{len(gone)} entries were removed, {size(sum(entry.bytes for entry in gone))}")
        for entry in kept:
            reason = "a running process uses it" if entry.finished else "it may still be written; it goes when it is a day old"
            print(f"kept {entry.path}: {reason}")
        return int(bool(kept))
    found = entries.entries()
    print(f"{cache_root()} holds {size(sum(entry.bytes for entry in found))} of at most {size(int(entries.limit()))}")
    for kind in entries.KINDS:
        mine = [entry for entry in found if entry.kind == kind]
        print(f"{kind:<9} {len(mine):>4} entries {size(sum(entry.bytes for entry in mine)):>10}")
    return 0


COMMANDS = {
    "run": _run,
    "sweep": _sweep,
    "ls": _list,
    "rescore": _rescore,
    "leaderboard": _leaderboard,
    "report": _report,
    "compare": _compare,
    "show": _show,
    "validate": _validate,
    "cache": _cache,
}
PLAIN = {  # the commands whose arguments need no parser
    "ls": "usage: cilbench ls methods|streams|vlms|experiments\n\nThe names that method=, stream=, method.vlm= and experiment= take.",
    "show": "usage: cilbench show RECORD [--plots]\n\nOne run as a table; with --plots its curve and matrix as PNG beside it.",
    "validate": "usage: cilbench validate PATH ...\n\nIs every record in these files and folders sound and unedited? Exit code 1 if not.",
    "cache": "usage: cilbench cache [clear [features|images|contents|decoders]]\n\nWhat can be computed again: features of frozen "
    "encoders, decoded images, what image files hold, converted decoders. It lies under $CILBENCH_CACHE (~/.cache/cilbench)\n"
    "and is kept below $CILBENCH_CACHE_GIB (100) by removing what was not used for longest. What a running process uses stays; "
    "exit code 1 then.",
}

if __name__ == "__main__":
    sys.exit(main())
