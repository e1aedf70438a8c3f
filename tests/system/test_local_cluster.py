"""``cluster/local/start.sh`` and ``stop.sh``: what they stop and remove, and whose folders they trust."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.second_user import OTHER_USER, as_other_user, needs_root
from tests.system.processes import default_signals, have_ended, wait_for

LOCAL = Path(__file__).resolve().parents[2] / "cluster" / "local"
MARK = "0123456789abcdef" * 2
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the scripts need /proc")


@pytest.fixture
def home() -> Iterator[Path]:
    """A place for the cluster's folder: its name must be short, and others may make files next to it."""
    with tempfile.TemporaryDirectory(prefix="dn", dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder, "c")


def script(name: str, home: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    command = [LOCAL / name, "1", "1"] if name == "start.sh" else [LOCAL / name]
    env = os.environ | {"DISTNUM_CLUSTER": str(home)} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def cluster(home: Path, mark: str = MARK, mode: int = 0o700) -> None:
    """A folder as ``start.sh`` makes it."""
    home.mkdir()
    (home / "mark").write_text(mark)
    home.chmod(mode)


@contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def process(mark: str | None, user: int | None = None) -> subprocess.Popen[bytes]:
    """A process group of its own, with a mark or without."""
    environment = {} if mark is None else {"DISTNUM_CLUSTER_MARK": mark}
    return subprocess.Popen(["/bin/sleep", "100"], env=environment, user=user, start_new_session=True)


@pytest.fixture
def others() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that belong to no cluster in these tests."""
    started = {"without a mark": process(None), "of another cluster": process(MARK[::-1])}
    if os.geteuid() == 0:
        started["of another user"] = process(MARK, OTHER_USER)
    yield started
    for one in started.values():
        one.kill()
        one.wait()


def ended(others: dict[str, subprocess.Popen[bytes]]) -> list[str]:
    """The names of those that have been stopped."""
    return [name for name, one in others.items() if one.poll() is not None]


class TestStop:
    def test_stops_what_belongs_to_the_cluster_and_nothing_else(
        self, home: Path, others: dict[str, subprocess.Popen[bytes]]
    ) -> None:
        # A node with a process that has replaced its environment, and a job in a process group of its own.
        code = "import os, subprocess; print(subprocess.Popen(['/bin/sleep', '99'], env={}).pid, flush=True); "
        command = [sys.executable, "-c", f"{code} os.execv('/bin/sleep', ['sleep', '99'])"]
        env = {"DISTNUM_CLUSTER_MARK": MARK}
        node = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True)
        with killed_at_the_end(node), killed_at_the_end(process(MARK)) as job:
            assert node.stdout is not None
            child = psutil.Process(int(node.stdout.readline()))
            cluster(home)
            assert script("stop.sh", home).returncode == 0
            assert node.wait(10) == job.wait(10) == -signal.SIGTERM
        assert not home.exists()
        assert have_ended([child])
        assert ended(others) == []

    @pytest.mark.slow
    def test_a_process_that_ignores_sigterm_is_killed(self, home: Path) -> None:
        ignoring = ["/bin/bash", "-c", "trap '' TERM; echo; while true; do sleep 1; done"]
        env = {"DISTNUM_CLUSTER_MARK": MARK, "PATH": os.environ["PATH"]}
        started = subprocess.Popen(ignoring, env=env, stdout=subprocess.PIPE, start_new_session=True)
        with killed_at_the_end(started) as node:
            assert node.stdout is not None
            node.stdout.readline()
            cluster(home)
            assert script("stop.sh", home).returncode == 0
            assert node.wait(10) == -signal.SIGKILL

    @pytest.mark.parametrize("mark", ["", "\n", ".*", "sleep", MARK.upper(), f"{MARK}\n.*", f"{MARK}{MARK}", "1 -1"])
    def test_garbage_in_place_of_the_mark(
        self, home: Path, mark: str, others: dict[str, subprocess.Popen[bytes]]
    ) -> None:
        cluster(home, mark)
        done = script("stop.sh", home)
        assert (done.returncode, done.stderr) == (2, f"There is no cluster of yours in '{home}'.\n")
        assert (home / "mark").exists()
        assert ended(others) == []

    def test_ids_of_other_processes_in_the_folder_mean_nothing(
        self, home: Path, others: dict[str, subprocess.Popen[bytes]]
    ) -> None:
        cluster(home)
        (home / "pids").write_text("".join(f"{one.pid}\n" for one in others.values()))
        assert script("stop.sh", home).returncode == 0
        assert ended(others) == []

    @pytest.mark.parametrize("name", ["ordinary", "two words", "two\nlines", "-rf"])
    def test_a_folder_that_is_no_cluster_is_left_alone(
        self, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = home.with_name(name)
        folder.mkdir(0o700)
        (folder / "file").touch()
        monkeypatch.chdir(folder.parent)
        for text in (folder, name, f"{folder}/", f"{folder}/.", f"{folder}/no/such"):
            assert script("stop.sh", text).returncode == 2
        assert (folder / "file").exists()

    @pytest.mark.parametrize("name", ["/", "//", "/.", ".", "..", "~", "/tmp", "/dev/null"])
    def test_places_that_are_no_cluster(self, name: str) -> None:
        done = script("stop.sh", name)
        assert done.returncode == 2
        assert "no cluster of yours" in done.stderr

    def test_a_folder_that_others_can_enter_or_a_link_to_one(self, home: Path) -> None:
        cluster(home, mode=0o755)
        assert script("stop.sh", home).returncode == 2
        home.chmod(0o700)
        link = home.with_name("link")
        link.symlink_to(home)
        assert script("stop.sh", link).returncode == 2
        assert home.exists()

    @pytest.mark.parametrize("name", ["two words", "two\nlines", "-rf", "'$(id)'"])
    def test_a_cluster_with_an_odd_name_is_removed(self, home: Path, name: str) -> None:
        odd = home.with_name(name)
        cluster(odd)
        assert script("stop.sh", odd).returncode == 0
        assert not odd.exists()


@needs_root
class TestAnotherUser:
    def test_its_folder_is_neither_trusted_nor_used(self, home: Path) -> None:
        def plant() -> None:
            home.mkdir(0o700)
            (home / "mark").write_text(MARK)
            (home / "pids").write_text(f"{victim.pid}\n")
            for name in ("token", "head.log"):
                (home / name).symlink_to(Path.home() / "planted")

        with killed_at_the_end(process(MARK)) as victim:
            assert as_other_user(plant) == "None"
            before = sorted(home.iterdir())
            stop, start = script("stop.sh", home), script("start.sh", home)
            assert victim.poll() is None
        assert (stop.returncode, start.returncode) == (2, 2)
        assert "no cluster of yours" in stop.stderr
        assert "set DISTNUM_CLUSTER to another name" in start.stderr
        assert sorted(home.iterdir()) == before

    def test_its_link_is_not_followed(self, home: Path) -> None:
        mine = home.with_name("mine")
        cluster(mine)
        for target in (mine, home.with_name("new")):
            as_other_user(lambda target=target: home.symlink_to(target))
            assert script("stop.sh", home).returncode == 2
            assert script("start.sh", home).returncode == 2
            home.unlink()
        assert [path.name for path in mine.iterdir()] == ["mark"]
        assert not home.with_name("new").exists()


class TestStart:
    @pytest.fixture
    def python(self, home: Path) -> tuple[Path, dict[str, str]]:
        """A file to run in place of Ray, and the environment that does so."""
        programs = home.with_name("bin")
        programs.mkdir()
        python = programs / "python3"
        python.touch(0o755)
        return python, {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DISTNUM_PORT": "29",
            "DISTNUM_DASHBOARD_PORT": "28",
        }

    def test_failure_leaves_nothing(self, home: Path, python: tuple[Path, dict[str, str]]) -> None:
        python[0].write_text("#!/bin/sh\necho no Ray here\nexit 1\n")
        done = script("start.sh", home, **python[1])
        assert done.returncode == 1
        assert "Ray has not started." in done.stderr
        assert "no Ray here" in done.stderr
        assert not home.exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interruption_leaves_nothing(
        self, home: Path, python: tuple[Path, dict[str, str]], number: signal.Signals
    ) -> None:
        python[0].write_text(f"#!/bin/sh\necho $$ > {home.with_name('pid')}\nexec sleep 100\n")
        env = os.environ | python[1] | {"DISTNUM_CLUSTER": str(home)}
        started = subprocess.Popen([LOCAL / "start.sh"], env=env, stderr=subprocess.PIPE, preexec_fn=default_signals)
        with killed_at_the_end(started) as starting:
            pid = home.with_name("pid")
            wait_for(lambda: pid.exists() and pid.read_text(), 30, "the start of the head")
            head = psutil.Process(int(pid.read_text()))
            # Only its owner can read or write anything in the folder, from the beginning.
            assert {path.stat().st_mode & 0o077 for path in (home, *home.rglob("*"))} == {0}
            starting.send_signal(number)
            assert starting.wait(30) == 128 + number
        assert not home.exists()
        assert have_ended([head])

    def test_two_at_once(self, home: Path, python: tuple[Path, dict[str, str]]) -> None:
        python[0].write_text("#!/bin/sh\nexec sleep 100\n")
        env = os.environ | python[1] | {"DISTNUM_CLUSTER": str(home)}
        started = subprocess.Popen([LOCAL / "start.sh"], env=env, stderr=subprocess.PIPE)
        with killed_at_the_end(started) as first:
            wait_for((home / "head.log").exists, 30, "the start of the head")
            assert script("start.sh", home, **python[1]).returncode == 2
            assert (home / "token").exists()
            first.terminate()
            first.wait(30)
        assert not home.exists()

    def test_a_port_in_use(self, home: Path, python: tuple[Path, dict[str, str]]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            done = script("start.sh", home, **{**python[1], "DISTNUM_DASHBOARD_PORT": port})
        assert done.returncode == 2
        assert f"Port {port} is in use" in done.stderr
        assert not home.exists()

    @needs_root
    def test_a_port_that_another_user_has_taken_meanwhile(
        self, home: Path, python: tuple[Path, dict[str, str]]
    ) -> None:
        # A server of another user would get the token.
        code = "import os,socket,time; os.setuid(65534); s=socket.create_server(('127.0.0.1',29)); time.sleep(3)"
        python[0].write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n')
        done = script("start.sh", home, **python[1])
        assert done.returncode == 1
        assert "Ray has not started." in done.stderr

    @pytest.mark.parametrize("name", ["/tmp/" + "n" * 28, "/"])
    def test_a_name_that_cannot_be_used(self, name: str) -> None:
        assert script("start.sh", name).returncode == 2

    def test_numbers_that_are_none(self, home: Path) -> None:
        for arguments in (["0"], ["x"], ["1", "-1"], ["1", "1;id"]):
            done = subprocess.run([LOCAL / "start.sh", *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert f"'{arguments[-1]}' must be a whole number from 1." in done.stderr
