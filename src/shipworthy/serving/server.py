"""The server: a supervisor that listens, and workers that answer, each in a process of its own.

`python -m shipworthy.serving.server --settings JSON` starts it and prints one JSON line with its address.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import msgspec

from shipworthy.engines.lifeline import end_with_parent
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.serving.settings import ServerSettings, check_settings
from shipworthy.serving.supervisor import Supervisor

WORKER = ("-m", "shipworthy.serving.worker_process")


def main(worker: Sequence[str] = WORKER) -> int:
    """Serve until SIGTERM or SIGINT, from settings on the command line; one JSON line on stdout when it answers.

    Args:
        worker: what Python is told to run as a worker.
    """
    parser = argparse.ArgumentParser(prog="python -m shipworthy.serving.server")
    parser.add_argument("--settings", required=True, help="ServerSettings as JSON")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    if arguments.with_parent:
        end_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = msgspec.json.decode(arguments.settings, type=ServerSettings)
        check_settings(settings)
        return Supervisor(settings, [sys.executable, *worker]).run(_announce)
    except (ShipworthyError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _announce(address: str, grpc: str | None = None) -> None:
    document = {"address": address, "pid": os.getpid()} | ({} if grpc is None else {"grpc": grpc})
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
