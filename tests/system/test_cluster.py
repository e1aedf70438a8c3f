"""Jobs on a real cluster of three nodes on this machine, which ``cluster/local/start.sh`` starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

import distnum
from distnum import InputError
from distnum.cli.main import main
from distnum.cli.submit import client
from distnum.cli.submit.client import Cluster
from distnum.common.cleanup import marked
from tests.system.processes import checkpoints, listening_addresses, run, sha256, started, wait_for

LOCAL = Path(__file__).resolve().parents[2] / "cluster" / "local"
TRAIN = ["--hidden", "8", "--batch-size", "20", "--workers", "2", "--evaluate-every", "5", "--checkpoint-every", "5"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("aiohttp") is None, reason="ray[default] is not installed"),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Running:
    """A running cluster."""

    def __init__(self, home: Path, dashboard: int, environment: dict[str, str]) -> None:
        self.home, self.environment = home, environment
        self.address = f"http://127.0.0.1:{dashboard}"
        self.token_file = home / "token"

    def connect(self) -> Cluster:
        return Cluster(self.address, self.token_file)

    def options(self) -> list[str]:
        return ["--address", self.address, "--token-file", str(self.token_file)]

    def processes(self, argument: str = "") -> list[int]:
        """The ids of its processes, or of those with an argument that contains a text."""
        mark = f"DISTNUM_CLUSTER_MARK={(self.home / 'mark').read_text()}".encode()
        groups = {os.getpgid(pid) for pid in marked(mark)}
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # it has just ended
                if os.getpgid(one.pid) in groups and argument in " ".join(one.cmdline()):
                    found.append(one.pid)
        return found

    def n_nodes(self) -> int:
        import requests

        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        answer = requests.get(f"{self.address}/nodes?view=summary", headers=headers, timeout=10).json()
        return sum(1 for node in answer["data"]["summary"] if node["raylet"].get("state") == "ALIVE")


# Runs in a process of its own; ending it closes all connections.
TLS = """
import asyncio, ssl, sys

port, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)

async def copy(reader, writer):
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def serve(reader, writer):
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer), return_exceptions=True)

async def listen():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(listen())
"""


@contextlib.contextmanager
def behind_tls(port: int, certificate: Path) -> Iterator[int]:
    """A port that forwards TLS connections to another port, with a new certificate."""
    key = certificate.with_suffix(".key")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    command = [sys.executable, "-c", TLS, str(port), str(certificate), str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def running_cluster(name: str, n_nodes: int) -> Iterator[Running]:
    home, dashboard, port = Path(f"/tmp/dn{os.getpid()}{name}"), free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DISTNUM_CLUSTER": str(home),
        "DISTNUM_PORT": str(port),
        "DISTNUM_DASHBOARD_PORT": str(dashboard),
        "HOME": str(home / "home"),
    }
    subprocess.run([LOCAL / "start.sh", str(n_nodes), "2"], env=environment, check=True, timeout=120)
    try:
        cluster = Running(home, dashboard, environment)
        wait_for(lambda: cluster.n_nodes() == n_nodes, 60, f"the start of {n_nodes} nodes")
        yield cluster
    finally:
        subprocess.run([LOCAL / "stop.sh"], env=environment, check=True, timeout=60)
    assert not home.exists()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_cluster("c", 3) as cluster:
        yield cluster


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_training_that_loses_the_control_service_saves_its_state_and_ends(
    number: signal.Signals, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with running_cluster("h", 1) as cluster:
        environment = cluster.environment | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(cluster.token_file),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        place = ["--address", f"127.0.0.1:{environment['DISTNUM_PORT']}", "--out", str(out)]
        with started("train", *TRAIN, *place, "--steps", "1000000", cwd=tmp_path, env=environment) as process:
            wait_for(lambda: checkpoints(out), 60, "a checkpoint")
            (control_service,) = cluster.processes("/gcs/gcs_server")
            os.kill(control_service, number)
            error = process.communicate(timeout=30)[1]
    assert process.returncode == 1, error
    line = error.splitlines()[-1]
    # The raylet ends soon after a control service that was killed; either may be noticed first. If the raylet ends in
    # the middle of a transfer, Ray ends the process before it can save its state.
    lost = re.search("The Ray cluster is lost: the (control service|raylet of this machine) has ", line)
    assert lost or (number == signal.SIGKILL and "the training was ended by the system, by Ray" in line), error
    assert f"Continue with: distnum resume {out}" in line, error
    done = len((out / "metrics.jsonl").read_text().splitlines())
    if lost:
        assert max(checkpoints(out)).stem == f"step-{done:08d}"  # no step is lost
    assert run("resume", str(out), "--steps", str(done + 3), "--workers", "0", cwd=tmp_path).returncode == 0
    assert sha256(out) == distnum.train(hidden=8, batch_size=20, steps=done + 3, workers=0).params_sha256


class TestOnACluster:
    def test_it_listens_on_the_loopback_address_only(self, running: Running) -> None:
        """Must be the first test: all nodes run, and nothing has ended."""
        listening = listening_addresses(running.processes())
        assert len(listening) > 3 * 5  # of a node: the raylet's two, and three agents'
        assert {address.removeprefix("::ffff:") for address, _ in listening} == {"127.0.0.1"}, listening

    def test_only_its_user_can_enter_its_folder_or_read_its_token(self, running: Running) -> None:
        assert running.home.stat().st_mode & 0o777 == 0o700
        assert running.token_file.stat().st_mode & 0o777 == 0o600

    def test_a_training_is_followed_to_its_end_and_fetched(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["submit", *running.options(), *TRAIN, "--steps", "10"]) == 0
        printed = capfd.readouterr()
        assert "workers   2 on Ray" in printed.out
        assert "step 10/10" in printed.out
        assert "trained   10 steps" in printed.out
        token = running.token_file.read_text().strip()
        assert token not in printed.out + printed.err

        job = running.connect().jobs()[0]
        assert (job.status, job.out) == ("SUCCEEDED", f"~/distnum-runs/{job.number}")
        assert "--steps 10" in job.command
        assert main(["submit", *running.options(), "--list"]) == 0
        assert job.number in capfd.readouterr().out

        to = tmp_path / "run"
        assert main(["submit", *running.options(), "--fetch", job.number, "--to", str(to)]) == 0
        expected = distnum.train(hidden=8, batch_size=20, steps=10, workers=0).params_sha256
        assert json.loads((to / "result.json").read_text())["params_sha256"] == expected
        assert not any(token in file.read_text(errors="replace") for file in to.rglob("*") if file.is_file())
        with pytest.raises(InputError, match="which is not empty; it must be a new folder"):
            running.connect().fetch(job.number, to)
        # A fetched run can be read like any other.
        assert main(["evaluate", str(to)]) == 0

    def test_a_run_at_a_uri_is_fetched_from_there(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        uri = f"file://{tmp_path}/there#1"
        assert main(["submit", *running.options(), *TRAIN, "--steps", "6", "--out", uri]) == 0
        assert f"kept in   {uri}" in capfd.readouterr().out
        job = running.connect().jobs()[0]
        assert job.out == uri
        fetched = running.connect().fetch(job.number, tmp_path / "here")
        assert json.loads((fetched / "result.json").read_text())["steps"] == 6

    def test_a_failed_job_ends_with_its_own_code(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["submit", *running.options(), *TRAIN, "--data", "/no/such/data"]) == 2
        assert "data is '/no/such/data'" in capfd.readouterr().out

    def test_a_script_is_sent_with_its_folder(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "losses.py").write_text("def loss(w, batch):\n    return float(((w - 3) ** 2).sum())\n")
        (tmp_path / ".env").write_text("PASSWORD=x")
        script = tmp_path / "fit.py"
        script.write_text(
            "import sys\nimport numpy as np\nimport distnum\nfrom losses import loss\n"
            "print('got', sys.argv[1:])\n"
            "print(distnum.train(loss, np.zeros(4), steps=60, workers=2).params.round(2))\nsys.exit(7)\n"
        )
        assert main(["submit", *running.options(), "--script", str(script), "--", "--x", "1"]) == 7
        printed = capfd.readouterr()
        assert "got ['--x', '1']" in printed.out
        assert "[3. 3. 3. 3.]" in printed.out
        assert "distnum: WARNING: .env may be secret, and is sent with the script" in printed.err

    def test_a_study_is_sent_with_its_folder_and_goes_on_with_its_store(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        study = tmp_path / "study"
        study.mkdir()
        (study / "helper.py").write_text("factor = 3.0\n")
        (study / "losses.py").write_text(
            "def loss(x):\n    from helper import factor\n    return factor * x['a'] * float(x['b'] @ x['b'])\n"
            "def gradient(x):\n    from helper import factor\n"
            "    return {'a': factor * float(x['b'] @ x['b']), 'b': 2 * factor * x['a'] * x['b']}\n"
        )
        (study / "loss.toml").write_text(
            'function = "losses:loss"\nstore = "kept"\nworkers = 2\n[x]\na = 2.0\nb = [1.0, 5.0]\n'
        )
        for order, cached in (("2", 0), ("4", 1)):  # the second one has fun(x) in the store
            command = ["differentiate", str(study / "loss.toml"), "--order", order]
            assert main(["submit", *running.options(), *command]) == 0
            printed = capfd.readouterr()
            number = re.findall(r"--fetch (\S+)", printed.err)[0]
            assert main(["submit", *running.options(), "--fetch", number, "--to", str(tmp_path / number)]) == 0
            result = json.loads((tmp_path / number / "derivative.json").read_text())
            assert result["derivative"]["a"] == pytest.approx(78)
            assert result["derivative"]["b"] == pytest.approx([12, 60])
            assert result["evaluations"]["from_store"] >= cached
        assert (running.home / "home" / "distnum-runs" / "kept").is_dir()
        check = ["check", str(study / "loss.toml"), "--gradient", "losses:gradient"]
        assert main(["submit", *running.options(), *check]) == 0
        assert "all 3 compared entries are right" in capfd.readouterr().out

    def test_a_stopped_training_is_saved_and_resumed_to_the_same_bits(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["submit", *running.options(), "--no-wait", *TRAIN, "--steps", "100000"]) == 0
        number = capfd.readouterr().out.strip()
        run = running.home / "home" / "distnum-runs" / number
        wait_for(lambda: checkpoints(run), 60, "a checkpoint")
        assert main(["submit", *running.options(), "--stop", number]) == 0
        assert capfd.readouterr().out.split() == [number, "STOPPED"]
        done = max(int(path.stem.removeprefix("step-")) for path in run.glob("checkpoints/*"))
        more = str(done + 5)
        assert main(["submit", *running.options(), "resume", number, "--steps", more]) == 0
        expected = distnum.train(hidden=8, batch_size=20, steps=done + 5, workers=0).params_sha256
        assert json.loads((run / "result.json").read_text())["params_sha256"] == expected

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate with")
    def test_a_dashboard_behind_tls(self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        certificate = tmp_path / "certificate.pem"
        with behind_tls(int(running.address.rsplit(":", 1)[1]), certificate) as port:
            address = f"https://127.0.0.1:{port}"
            options = ["--address", address, "--token-file", str(running.token_file)]
            assert main(["submit", *options, "--list"]) == 2
            printed = capfd.readouterr().err
            assert f"address is {address!r}, whose certificate is not trusted here" in printed
            assert "--ca-file" in printed
            (tmp_path / "other.pem").write_text("no certificate")
            assert main(["submit", *options, "--ca-file", str(tmp_path / "other.pem"), "--list"]) == 2
            assert "which holds no certificate" in capfd.readouterr().err
            trusting = [*options, "--ca-file", str(certificate)]
            # Following needs a web socket.
            assert main(["submit", *trusting, *TRAIN, "--steps", "5"]) == 0
            assert "trained   5 steps" in capfd.readouterr().out
            assert main(["submit", *trusting, "--list"]) == 0
            assert "SUCCEEDED" in capfd.readouterr().out

    def test_a_scaling_experiment_on_a_cluster(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        few = ["--workers", "1,2,5", "--steps", "2", "--warmup", "1", "--repeats", "1", "--hidden", "8"]
        forecast = ["--forecast", "16", "--workers-per-node", "8", "--out", "scaling"]
        assert main(["submit", *running.options(), "scale", *few, *forecast]) == 0
        printed = capfd.readouterr().out
        assert "3 measurements on 3 nodes" in printed
        assert re.search(r"^ +16 +2 ", printed, re.MULTILINE)
        kept = json.loads((running.home / "home" / "distnum-runs" / "scaling" / "scaling.json").read_text())
        rows = kept["measurements"]
        # Only cores of nodes with workers count.
        assert [(row["workers"], row["nodes"]) for row in rows] == [(1, 1), (2, 2), (5, 3)]
        assert rows[0]["cores"] < rows[1]["cores"] < rows[2]["cores"] == sum(kept["job"]["node_cpus"])
        assert {row["asked_over"] for row in rows} == {"Ray"}
        assert len({row["params_sha256"] for row in rows}) == 1

    def test_a_wrong_token_and_a_wrong_version_are_refused(
        self, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        wrong = tmp_path / "token"
        wrong.write_text("not the one")
        assert main(["submit", "--address", running.address, "--token-file", str(wrong), *TRAIN]) == 2
        printed = capfd.readouterr().err
        assert "a cluster that asks for another token" in printed
        assert "not the one" not in printed
        for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.delenv(variable, raising=False)
        assert main(["submit", "--address", running.address, *TRAIN]) == 2
        monkeypatch.setattr(client, "_requirements", lambda: ["numpy>=99"])
        assert main(["submit", *running.options(), *TRAIN]) == 2
        assert "distnum: the cluster does not fit: numpy is" in capfd.readouterr().out

    def test_a_stopped_job_finishes_its_step(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        # By default Ray kills a stopped job after three seconds.
        slow = ["--method", "naive", "--hidden", "50", "--batch-size", "40"]
        rare = ["--steps", "50", "--checkpoint-every", "99", "--workers", "1"]
        assert main(["submit", *running.options(), "--no-wait", *slow, *rare]) == 0
        number = capfd.readouterr().out.strip()
        run = running.home / "home" / "distnum-runs" / number
        rows = run / "metrics.jsonl"
        wait_for(lambda: rows.exists() and rows.read_text().count("\n"), 180, "the first step")
        row = json.loads(rows.read_text().splitlines()[0])
        assert row["compute_s"] > 3
        assert main(["submit", *running.options(), "--stop", number]) == 0
        assert capfd.readouterr().out.split() == [number, "STOPPED"]
        n_rows = len(rows.read_text().splitlines())
        assert [path.stem for path in run.glob("checkpoints/*")][-1] == f"step-{n_rows:08d}"

    def test_addresses_and_tokens_in_the_environment(
        self, running: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        assert main(["submit", *running.options(), "--list"]) == 0
        token = running.token_file.read_text().strip()
        monkeypatch.setenv("RAY_AUTH_TOKEN", f"{token}\n")
        assert main(["submit", "--address", running.address, "--list"]) == 0
        monkeypatch.setenv("RAY_AUTH_TOKEN", f"{token}\nmore")
        assert main(["submit", "--address", running.address, "--list"]) == 2
        printed = capfd.readouterr().err
        assert "RAY_AUTH_TOKEN holds no token in one line" in printed
        assert token not in printed

    def test_unknown_jobs_are_refused(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        for option in ("--stop", "--fetch", "--follow"):
            assert main(["submit", *running.options(), option, "distnum-none"]) == 2
            assert "which the cluster does not know" in capfd.readouterr().err

    def test_a_killed_node_does_not_change_the_bits(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        """Must be the last test: it kills a node."""
        sizes = ["--hidden", "60", "--batch-size", "100", "--workers", "5", "--checkpoint-every", "20"]
        assert main(["submit", *running.options(), "--no-wait", *sizes, "--steps", "400"]) == 0
        number = capfd.readouterr().out.strip()
        run = running.home / "home" / "distnum-runs" / number
        wait_for(lambda: checkpoints(run), 60, "a checkpoint")
        os.killpg(running.processes("--temp-dir=" + str(running.home / "node-3"))[0], signal.SIGKILL)
        assert main(["submit", *running.options(), "--follow", number]) == 0
        assert "is lost" in capfd.readouterr().out
        expected = distnum.train(hidden=60, batch_size=100, steps=400, workers=0).params_sha256
        assert json.loads((run / "result.json").read_text())["params_sha256"] == expected
