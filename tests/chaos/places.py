"""Clusters and disks for the disturbed runs: nodes of Ray on this machine or in network namespaces, a small disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.chaos.owned import network_name
from tests.chaos.runs import ROOT, is_worker, ray_server

# Ray then detects a lost node after 3 s instead of 14 s.
QUICK_CHECKS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
OPEN = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
HEAD, OTHERS = 1, (2, 3)


class Raylets:
    """A head and two further nodes as processes of this machine. The driver runs on the head.

    Args:
        folder: Folder to be made for their files; its path must be short.
    """

    prefix: tuple[str, ...] = ()
    environment = QUICK_CHECKS | OPEN | LOOPBACK

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._folder = folder
        folder.mkdir()
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._lost: set[int] = set()
        self._n_starts = 0
        try:
            self._prepare()
            self._start_all()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Set up what the nodes need."""

    def _command(self, number: int) -> list[str]:
        """Return the command that starts a node, without its arguments."""
        return [sys.executable, str(ROOT / "cluster" / "local" / "ray_start.py"), "start"]

    def _host(self, number: int) -> str:
        """Return the address of a node."""
        return "127.0.0.1"

    def _listens(self) -> bool:
        """Return whether the head listens."""
        host, port = self.address.split(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def _disconnect(self, number: int) -> None:
        """Lose a node."""
        self._end(number)

    def _connect(self, number: int) -> None:
        """Make the start of a lost node possible."""

    def _start_all(self) -> None:
        for number in (HEAD, *OTHERS):
            self._start(number)

    def _start(self, number: int) -> None:
        head = ["--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false"]
        self._n_starts += 1
        command = [*self._command(number), "--block", *(head if number == HEAD else [f"--address={self.address}"])]
        command += [f"--node-ip-address={self._host(number)}", "--num-cpus=1", "--dashboard-agent-listen-port=0"]
        command += ["--object-store-memory=100000000", f"--temp-dir={self._folder / str(self._n_starts)}"]
        with (self._folder / f"node-{number}.log").open("ab") as log:
            self._started[number] = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | self.environment, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while number == HEAD and not self._listens():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the head did not start; see {log.name}")
            time.sleep(0.1)

    def _end(self, number: int) -> None:
        """Kill every process of a node."""
        if number in self._started:
            process = self._started.pop(number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def server(self, number: int, name: str) -> int | None:
        """Return the process id of a node's ``raylet`` or ``gcs_server``; None if it does not run."""
        return ray_server(self._started[number].pid, name) if number in self._started else None

    def workers(self, number: int) -> set[int]:
        """Return the process ids of a node's workers."""
        node = psutil.Process(self._started[number].pid)
        return {child.pid for child in node.children(recursive=True) if is_worker(child.pid)}

    def workers_cut_off(self) -> set[int]:
        """Return the process ids of workers on lost nodes, to which no news comes."""
        return set().union(*(self.workers(number) for number in self._lost if number in self._started))

    def others(self) -> list[int]:
        """Return the numbers of the nodes that run, without the head."""
        return [number for number in OTHERS if number not in self._lost and self.server(number, "raylet")]

    def lose_node(self) -> bool:
        """Lose a node. Return False if only the head is left."""
        return any(self.mark_lost(number) and not self._disconnect(number) for number in self.others()[:1])

    def mark_lost(self, number: int) -> bool:
        """Note that a node has been lost, which ``add_node`` starts again."""
        self._lost.add(number)
        return True

    def add_node(self) -> bool:
        """Start a lost node again. Return False if all run."""
        running = self.others()
        for number in OTHERS:
            if number not in running:
                self._end(number)
                self._connect(number)
                self._start(number)
                self._lost.discard(number)
                return True
        return False

    def restart(self) -> None:
        """End all nodes, and start them again."""
        for number in (HEAD, *OTHERS):
            self._end(number)
        for number in self._lost:
            self._connect(number)
        self._lost.clear()
        self._start_all()

    def close(self) -> None:
        """End all nodes and remove their files."""
        for number in (*OTHERS, HEAD):
            self._end(number)
        shutil.rmtree(self._folder, ignore_errors=True)


class Namespaces(Raylets):
    """A head and two further nodes in network namespaces, whose links can be cut. Needs root.

    The parent of ``folder`` gives the namespaces their names.
    """

    environment = QUICK_CHECKS | OPEN

    def _prepare(self) -> None:
        self._mark = network_name(self._folder.parent)
        self.address = f"{self._host(HEAD)}:6379"
        self.prefix = ("ip", "netns", "exec", self._name(HEAD))
        self._ip("link", "add", self._mark, "type", "bridge")
        self._ip("link", "set", self._mark, "up")
        for number in (HEAD, *OTHERS):
            name, outer = self._name(number), self._link(number)
            self._ip("netns", "add", name)
            self._ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            self._ip("link", "set", outer, "master", self._mark, "up")
            self._ip("-n", name, "addr", "add", f"{self._host(number)}/24", "dev", "eth0")
            self._ip("-n", name, "link", "set", "eth0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")

    def _name(self, number: int) -> str:
        return f"{self._mark}n{number}"

    def _link(self, number: int) -> str:
        return f"{self._mark}v{number}"

    def _host(self, number: int) -> str:
        return f"10.77.0.{number}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def _command(self, number: int) -> list[str]:
        return ["ip", "netns", "exec", self._name(number), str(Path(sys.executable).parent / "ray"), "start"]

    def _listens(self) -> bool:
        probe = [*self.prefix, "ss", "-ltnH", "sport", "=", self.address.split(":")[1]]
        return bool(subprocess.run(probe, capture_output=True, check=True).stdout)

    def _disconnect(self, number: int) -> None:
        self._ip("link", "set", self._link(number), "down")

    def _connect(self, number: int) -> None:
        self._ip("link", "set", self._link(number), "up")

    def _end(self, number: int) -> None:
        pids = subprocess.run(["ip", "netns", "pids", self._name(number)], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        super()._end(number)

    def close(self) -> None:
        super().close()
        for number in (HEAD, *OTHERS):
            subprocess.run(["ip", "netns", "del", self._name(number)], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", self._link(number)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._mark], capture_output=True, check=False)


class SmallDisk:
    """A folder on a small file system in memory, if that can be mounted; else an ordinary folder."""

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
        self.small = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Fill the disk."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def free(self) -> None:
        """Free the disk."""
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.small:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)
