"""The command ``distnum``, also as ``python -m distnum``."""

from __future__ import annotations

import os
from typing import NoReturn

from distnum.common.signals import handled_signals


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # While modules are imported there is nothing to save: end at once, without a traceback.
    with handled_signals(lambda number, frame: os._exit(130)):
        from distnum.cli import main
    main.run()


if __name__ == "__main__":
    run()
