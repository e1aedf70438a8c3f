"""The command ``distnum``, also as ``python -m distnum``."""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # There is nothing to save yet: an interruption while modules are loaded is no crash.
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, lambda number, frame: os._exit(130))
    from distnum.cli import main

    for number, handler in taken.items():
        signal.signal(number, handler)
    main.run()


if __name__ == "__main__":
    run()
