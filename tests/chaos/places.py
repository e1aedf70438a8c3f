"""Clusters and disks for the disturbed runs: raylets and network namespaces on this machine, a small disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Ray then detects a lost node after 3 s instead of 14 s.
QUICK_CHECKS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
OPEN = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}


class Raylets:
    """A head and two further nodes as processes of this machine."""

    prefix: tuple[str, ...] = ()

    def __init__(self) -> None:
        os.environ.update(QUICK_CHECKS | OPEN)
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._nodes = [self._cluster.add_node(num_cpus=1) for _ in range(2)]
        self.address = self._cluster.address
        self.environment = QUICK_CHECKS | OPEN

    def lose_node(self) -> bool:
        """Kill a node's raylet, which ends its workers. Return False if only the head is left."""
        if not self._nodes:
            return False
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)
        return True

    def add_node(self) -> bool:
        """Start a new node. Return False if there are three already."""
        if len(self._nodes) >= 3:
            return False
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        return True

    def close(self) -> None:
        self._cluster.shutdown()


class Namespaces:
    """A head and two further nodes in network namespaces, whose links can be cut. Needs root."""

    def __init__(self) -> None:
        self._mark = f"dn{os.getpid() % 10_000}"
        self._folder = Path(tempfile.mkdtemp(prefix="dn", dir="/tmp"))
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._cut: list[int] = []
        self._n_starts = 0
        self.environment = QUICK_CHECKS | OPEN
        self.address = "10.77.0.1:6379"
        self.prefix = ("ip", "netns", "exec", self._name(1))
        try:
            self._ip("link", "add", self._mark, "type", "bridge")
            self._ip("link", "set", self._mark, "up")
            for number in (1, 2, 3):
                name, outer = self._name(number), self._link(number)
                self._ip("netns", "add", name)
                self._ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
                self._ip("link", "set", outer, "master", self._mark, "up")
                self._ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
                self._ip("-n", name, "link", "set", "eth0", "up")
                self._ip("-n", name, "link", "set", "lo", "up")
            for number in (1, 2, 3):
                self._start(number)
        except BaseException:
            self.close()
            raise

    def _name(self, number: int) -> str:
        return f"{self._mark}n{number}"

    def _link(self, number: int) -> str:
        return f"{self._mark}v{number}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def _start(self, number: int) -> None:
        head = ["--head", "--port=6379", "--include-dashboard=false"]
        role = head if number == 1 else [f"--address={self.address}"]
        self._n_starts += 1
        command = ["ip", "netns", "exec", self._name(number), str(Path(sys.executable).parent / "ray"), "start"]
        command += ["--block", *role, f"--node-ip-address=10.77.0.{number}", "--num-cpus=1"]
        command += ["--object-store-memory=100000000"]
        if number == 1:
            command += [f"--temp-dir={self._folder / str(self._n_starts)}"]
        log = (self._folder / f"node-{number}.log").open("ab")
        self._started[number] = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | self.environment, start_new_session=True
        )
        if number == 1:
            deadline = time.monotonic() + 60
            probe = ["ip", "netns", "exec", self._name(1), "ss", "-ltnH", "sport", "=", "6379"]
            while not subprocess.run(probe, capture_output=True, check=True).stdout:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the head did not start; see {log.name}")
                time.sleep(0.1)

    def _end(self, number: int) -> None:
        """Kill every process in a namespace."""
        pids = subprocess.run(["ip", "netns", "pids", self._name(number)], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        if number in self._started:
            self._started.pop(number).wait()

    def lose_node(self) -> bool:
        """Cut a node's link. Return False if only the head is left."""
        connected = {2, 3} - set(self._cut)
        if not connected:
            return False
        number = min(connected)
        self._ip("link", "set", self._link(number), "down")
        self._cut.append(number)
        return True

    def add_node(self) -> bool:
        """Restore a cut link and restart its node. Return False if no link is cut."""
        if not self._cut:
            return False
        cut = self._cut.pop(0)
        self._end(cut)
        self._ip("link", "set", self._link(cut), "up")
        self._start(cut)
        return True

    def close(self) -> None:
        for number in (3, 2, 1):
            self._end(number)
            subprocess.run(["ip", "netns", "del", self._name(number)], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", self._link(number)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._mark], capture_output=True, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


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
