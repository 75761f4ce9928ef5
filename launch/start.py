"""`accelerate launch` that ends with the exit code of what it launched:  python -m launch.start --config_file … bench/run.py …

accelerate ends with 1 whatever happened. Who starts runs wants to know whether one was stopped and can go on (75).
"""

import subprocess
import sys

STOPPED = 75  # of bench/run.py: stopped, and the same command goes on


def main(arguments: list[str] | None = None) -> int:
    """-> the exit code of the process that ended first with another one than 0"""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except subprocess.CalledProcessError as error:
        return error.returncode
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException:  # the launcher was asked to stop, and has asked the run
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
