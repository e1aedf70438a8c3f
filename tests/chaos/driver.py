"""The run that is disturbed: trains in a folder, or resumes there, and prints the number of each step.

It ends after the first step that finds the file ``FOLDER.enough``. If that file holds a number when the
run starts, it ends with that step instead.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from pathlib import Path
from typing import Any

import distnum

OPTIONS: dict[str, Any] = {"hidden": (60,), "batch_size": 200, "optimizer": "adam", "learning_rate": 0.002}
OPTIONS |= {"checkpoint_every": 10, "step_deadline": 2.0, "wait_for_workers": 60.0}


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    out, n_steps, workers, address = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    place: dict[str, Any] = {"workers": workers, "threads_per_worker": 1, "address": address or None}

    enough = out.with_name(f"{out.name}.enough")
    last = int(enough.read_text()) if enough.exists() else None

    def on_step(step: Any, row: Any) -> bool:
        print(step.step, flush=True)
        return last is None and enough.exists()

    if (out / "config.toml").exists():
        planned = {} if last is None else {"steps": last}
        result = distnum.train(out=out, resume=True, on_step=on_step, **planned, **place)
    else:
        result = distnum.train(**OPTIONS, steps=n_steps, out=out, on_step=on_step, **place)
    print("sha256", result.params_sha256, result.metrics[-1]["step"], flush=True)


if __name__ == "__main__":
    main()
