"""Run one method over one stream:  python bench/run.py method=gmm stream=digits seed=0

On several processes:  accelerate launch bench/run.py method=gmm …

Options are key=value (Hydra's grammar); --help lists them, --cfg job prints the resolved configuration.
"""

import argparse
import sys
import threading
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Started as a script: Python put bench/ first on the path, where our files hide the standard library's. Replace it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.config import once, resolve
from data.errors import InputError
from data.utf8 import ensure


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code: 0; 2 for wrong input, 75 for a run that was stopped and can go on, 1 where another process of it is gone

    Each but 0 comes with one sentence on standard error.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--config-dir")
    given = parser.parse_intermixed_args(arguments)  # options stand in any order
    try:
        once(given.overrides)
        config = resolve(given.overrides, given.config_dir)
        if given.help:
            import signal

            from bench.help import help_text

            if hasattr(signal, "SIGPIPE"):
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends quietly, as other commands do
            print(help_text(config))
            return 0
        if given.cfg:
            from omegaconf import OmegaConf

            print(OmegaConf.to_yaml(config), end="")
            return 0
        return _run(config)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(config) -> int:
    import os
    import signal

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # until there is something to save, when a run answers to it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of loading, in transformers and the hub: ours show training
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, which accelerate imports, warns on every start
    if config.dry_run:
        from bench.planning.plan import show_plan

        return show_plan(config)
    from bench.engine import make_accelerator, run
    from bench.resume.checkpoint import Stopped
    from bench.resume.processes import gone
    from bench.table import show

    accelerator = make_accelerator(config)
    try:
        record, path = run(config, accelerator)
    except torch.OutOfMemoryError:
        from bench.planning.estimate import REMEDY

        raise InputError(f"the GPU's memory is full: {REMEDY}; dry_run=true says what a run needs") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch's batch normalisation
            raise
        raise InputError(
            "a batch of one row has no statistics to normalise by: choose a method.batch_size that leaves no row over, or larger images"
        ) from None
    except Stopped as stopped:
        if accelerator.is_main_process:
            print(f"{stopped}: what was learnt is saved; the same command goes on", file=sys.stderr)
        return 75
    except KeyboardInterrupt:  # a second signal, or one before there was anything to save
        if accelerator.is_main_process:
            print("stopped at once: the same command goes on from the last checkpoint", file=sys.stderr)
        return 75
    except RuntimeError as error:
        if not gone(error):
            raise
        print(
            f"error: process {accelerator.process_index + 1} of {accelerator.num_processes} ends, as another one ended or did not answer "
            f"within timeout_minutes={config.timeout_minutes:g} ({str(error).splitlines()[0]}): what that one said tells why, "
            "and the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 1
    if accelerator.is_main_process:
        show(record, path)
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    ensure()
    sys.exit(main())
