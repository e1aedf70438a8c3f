"""Faults of some kinds; ``python -m tests.chaos`` injects any number of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distnum.common.cleanup import marked
from tests.chaos.owned import PLACE, PREFIX, VARIABLE, network_name

ROOT = Path(__file__).resolve().parents[2]
root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/usr/sbin/ip").exists(),
    reason="network namespaces need root and the ip command of iproute2",
)


KINDS = {
    "machine": [
        "worker killed",
        "worker stopped",
        "driver killed while writing",
        "checkpoint flipped",
        "disk full",
        "own raylet killed",
    ],
    "raylets": ["node killed at the start", "control service killed"],
    "namespaces": ["link cut", "link restored", "node's raylet stopped"],
}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("place", ["machine", "raylets", pytest.param("namespaces", marks=root)])
def test_faults_do_not_change_the_bits(place: str, tmp_path: Path) -> None:
    kinds, out = KINDS[place], tmp_path / "faults.jsonl"
    command = [sys.executable, "-m", "tests.chaos", "--faults", str(len(kinds)), "--places", place, "--seed", "7"]
    command += ["--kinds", ",".join(kinds), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert {json.loads(line)["kind"] for line in out.read_text().splitlines()} == set(kinds), done.stdout


class Command:
    """``python -m tests.chaos`` between namespaces, started in the background of a shell, where SIGINT is ignored."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "tests.chaos"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--places", "namespaces"], cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
        self.folder = wait_for(lambda: next((path for path in PLACE.glob(f"{PREFIX}*") if self._owns(path)), None))
        wait_for(lambda: len(self.left()) > 8 and b"raylet" in b"".join(self.commands()))

    def _owns(self, folder: Path) -> bool:
        locks = Path("/proc/locks").read_text().splitlines()
        inode = (folder / "owner").stat().st_ino if (folder / "owner").exists() else 0
        return any(f" {self.process.pid} " in line and f":{inode} " in line for line in locks)

    def commands(self) -> list[bytes]:
        """Return the command lines of the processes that belong to it."""
        mark = os.fsencode(f"{VARIABLE}={self.folder}\0")
        found = []
        for pid in marked(mark):
            with contextlib.suppress(OSError):  # it has just ended
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        return found

    def left(self) -> list[object]:
        """Return all that belongs to it, apart from its own process."""
        name = network_name(self.folder)
        places = (Path("/run/netns"), Path("/sys/class/net"))
        networks = [str(path) for place in places if place.is_dir() for path in place.glob(f"{name}*")]
        return [*networks, *self.commands(), *([self.folder] if self.folder.exists() else [])]


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@root
@pytest.mark.slow
@pytest.mark.ray
def test_what_a_killed_command_leaves_is_removed_by_the_next_one_but_nothing_of_live_ones(tmp_path: Path) -> None:
    names = ("first", "second", "killed")
    first, second, killed = commands = [Command(tmp_path / name) for name in names]
    try:
        killed.process.kill()
        killed.process.wait()
        assert len(killed.left()) > 8
        kept = [one for command in (first, second) for one in command.left() if not isinstance(one, bytes)]
        next_one = [sys.executable, "-m", "tests.chaos", "--faults", "0"]
        done = subprocess.run(next_one, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert killed.left() == []
        assert str(killed.folder) in done.stdout
        for live in (first, second):
            assert str(live.folder) not in done.stdout
            assert any(b"raylet" in command for command in live.commands())
        assert set(kept) <= {*first.left(), *second.left()}

        for live, number in ((first, signal.SIGINT), (second, signal.SIGTERM)):
            live.process.send_signal(number)
            assert live.process.wait(60) == 1
            assert f"stopped by {number.name}" in live.log.read_text()
            assert live.left() == []
    finally:
        for command in commands:
            command.process.terminate()
            command.process.wait(60)
