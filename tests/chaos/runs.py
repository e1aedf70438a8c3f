"""A run that is disturbed: its process, its steps and its workers."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
# A run without a step for this long hangs.
DEADLINE_S = 180.0
_MORE_STEPS = 10


class Lost(AssertionError):
    """A run stopped, hung, or ended with different bits."""


class Run:
    """A training in a folder, which is started and resumed any number of times.

    Args:
        folder: Folder of the run.
        n_steps: Step after which it ends at the latest.
        workers: Number of workers, as for the command line.
        address: Address of the cluster; empty for a Ray session on this machine.
        prefix: Prefix of the command, to start it in a network namespace.
        environment: Environment variables to add.
    """

    def __init__(
        self,
        folder: Path,
        n_steps: int,
        workers: str,
        address: str = "",
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._arguments = [str(folder), str(n_steps), workers, address]
        self._prefix = prefix
        self._environment = {**os.environ, **(environment or {})}
        self._log = folder.with_name(f"{folder.name}.log")
        self.sha256, self.step = "", 0
        self.begin()

    def begin(self) -> None:
        """Start or resume the run."""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._ended = False
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        command = [*self._prefix, sys.executable, "-m", "tests.chaos.driver", *self._arguments]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,
            )
        threading.Thread(target=self._read, args=(self.process, self._lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    def skip(self) -> None:
        """Skip the lines that have been printed so far, and note the time: a fault follows."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._lines.get_nowait())
        self.skipped = time.monotonic()

    def _take(self, line: str | None) -> bool:
        """Process a line. Return False at the end of the output."""
        if line is None:
            self._ended = True
            return False
        if line.startswith("sha256 "):
            _, self.sha256, step = line.split()
            self.step = int(step)
        elif line.strip().isdecimal():
            self.step = int(line)
        return True

    def wait_step(self, n: int = 1) -> bool:
        """Wait for ``n`` more steps. Return False if the run ends before."""
        deadline = time.monotonic() + DEADLINE_S
        while n and not self._ended:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.process.send_signal(signal.SIGUSR1)  # prints a traceback to its log
                time.sleep(1)
                raise Lost(f"no step for {DEADLINE_S:g} s: {self.log_end()}") from None
            n -= self._take(line) and str(line).strip().isdecimal()
        if self._ended:
            self.process.wait()
        return not n

    def wait_end(self, seconds: float) -> float:
        """Wait until it ends by itself, at most some seconds. Return the seconds until then."""
        began = time.monotonic()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # prints a traceback to its log
            time.sleep(1)
            raise Lost(f"it still runs after {seconds:g} s: {self.log_end()}") from None
        while self.wait_step():  # those that were printed
            pass
        return time.monotonic() - began

    def newest(self) -> Path | None:
        """Return the newest checkpoint."""
        return max((self.folder / "checkpoints").glob("step-*"), default=None)

    def worker_pids(self) -> list[int]:
        """Return the process ids of the running workers."""
        working: dict[int, int] = {}
        with contextlib.suppress(OSError):
            for line in (self.folder / "events.jsonl").read_text().splitlines():
                row = json.loads(line)
                if row["event"] == "worker_joined":
                    working[row["worker"]] = row["pid"]
                if row["event"] == "worker_lost":
                    working.pop(row["worker"], None)
        return [pid for pid in working.values() if is_worker(pid)]

    def kill(self) -> None:
        """Kill the driver with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def to_end(self) -> str:
        """Wait for the end. Return the checksum of the parameters after ``step`` steps."""
        while self.wait_step():
            pass
        if self.process.returncode or not self.sha256:
            raise Lost(f"the run ended with code {self.process.returncode}: {self.log_end()}")
        return self.sha256

    def finish(self) -> str:
        """End the run after the next step, and resume it to a planned end. Return the final checksum."""
        enough = self.folder.with_name(f"{self.folder.name}.enough")
        enough.touch()
        self.to_end()
        enough.write_text(str(self.step + _MORE_STEPS))
        self.begin()
        return self.to_end()

    def log_end(self) -> str:
        """Return the end of what it has written to its error output since it was begun or resumed last."""
        with self._log.open(errors="replace") as log:
            log.seek(self._log_begins)
            return log.read()[-3000:]


def is_worker(pid: int) -> bool:
    """Return whether a process is a running worker."""
    with contextlib.suppress(OSError):
        return b"DistnumWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def ray_server(parent: int, name: str) -> int | None:
    """Return the process id of the ``raylet`` or ``gcs_server`` that a process has started; None if none runs."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(parent).children(recursive=True):
            if child.name() == name and child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
    return None
