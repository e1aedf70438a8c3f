"""Jobs on a real cluster of three nodes on this machine, and the files in ``cluster/``."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import distnum
from distnum import InputError, TrainingError
from distnum.cli import on_cluster
from distnum.cli.main import main
from distnum.cli.submit import client
from distnum.cli.submit.client import Cluster
from distnum.cli.submit.transfer import packed, unpack

HERE = Path(__file__).resolve().parents[2] / "cluster"
SCRIPTS = [HERE / "slurm.sh", HERE / "local" / "start.sh", HERE / "local" / "stop.sh"]
TRAIN = ["--hidden", "8", "--batch-size", "20", "--workers", "2", "--evaluate-every", "5", "--checkpoint-every", "5"]
needs_jobs = pytest.mark.skipif(find_spec("aiohttp") is None, reason="ray[default] is not installed")


# --- the files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on-premises.yaml", "aws.yaml"])
def test_launcher_files_are_what_ray_takes(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((HERE / name).read_text())
    util.validate_config(util.prepare_config(config))
    with pytest.raises(Exception, match="idle_timeout_minute"):
        util.validate_config({**config, "idle_timeout_minute": 5})


def test_the_ray_job_has_the_fields_of_kuberay() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((HERE / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    known = {"entrypoint", "submissionMode", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    assert set(spec) == known | {"backoffLimit", "rayClusterSpec"}
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {"rayStartParams", "template"} <= set(group)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert {"name", "image", "env", "resources", "volumeMounts"} <= set(container)
    for workers in cluster["workerGroupSpecs"]:
        assert {"groupName", "replicas", "minReplicas", "maxReplicas"} <= set(workers)
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"]), dict)
    # The command on it is one that distnum takes.
    words = spec["entrypoint"].split()
    assert words[:2] == ["distnum", "train"]
    from distnum.cli.options import parsed

    assert parsed(words[1:]).address == "auto"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_needed_packages_stand_in_every_file_that_installs_them() -> None:
    from importlib.metadata import requires

    needed = [text.split(";")[0].strip() for text in requires("distnum") or [] if "extra ==" not in text]
    for name in ("on-premises.yaml", "aws.yaml"):
        text = (HERE / name).read_text()
        for requirement in needed:
            if not requirement.startswith(("ray", "tomli>")):
                assert requirement in text, (name, requirement)


# --- without a cluster ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "address is missing; give --address http://HEAD:8265"),
        (["--address", "head:8265"], "address is 'head:8265'; it must be http://HEAD:8265"),
        (["--address", "http://a:b@head:1"], "address holds a user name or password"),
        (["--address", "http://127.0.0.1:9"], "where nothing listens (Connection refused)"),
        (["--address", "http://127.0.0.1:9", "--steps", "0"], "steps is '0'; it must be a whole number"),
        (["--address", "http://127.0.0.1:9", "--stepz", "3"], "unrecognized arguments: --stepz 3"),
        (["--list", "--stop", "x"], "--list and --stop are given"),
        (["--list", "--steps", "3"], "'--steps' is given with --list"),
        (["--address", "user:pw@head:8265"], "address holds a user name or password"),
        (["--stop", ""], "stop is ''; it must be the number of a job"),
        (["--out", ""], "out is ''; it must name a folder"),
        (["--workers", "0"], "workers is 0, which uses no Ray"),
        (["--out", "sftp://user:pw@head/run"], "out is a URI that holds a password"),
        (["resume", "sftp://user:pw@head/run"], "dir is a URI that holds a password"),
        (["resume", "--steps", "7", "--", "-x"], "dir is '-x'; it must stand before the options"),
        (["scale", "--resume"], "resume needs --out DIR"),
        (["--address", "http://127.0.0.1:9", "--token-file", "/nowhere"], "where nothing listens"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert main(["submit", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert "pw" not in printed


@pytest.mark.parametrize("rest", [["7", "--steps", "7"], ["--steps", "7", "7"], ["--steps=7", "7"]])
def test_the_run_to_resume_may_stand_anywhere(rest: list[str]) -> None:
    from distnum.cli.options import parsed
    from distnum.cli.submit.command import submitted_command

    command = submitted_command(parsed(["submit", "resume", *rest]))
    assert command[:2] == ["resume", "7"]
    assert parsed(command) == parsed(["resume", "7", "--steps", "7"])


def test_what_a_local_file_says_is_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in (
        ('data = "sftp://user:pw@head/data"', "data is a URI that holds a password"),
        ("workers = 0", "workers is 0, which uses no Ray"),
    ):
        (tmp_path / "c.toml").write_text(line)
        assert main(["submit", "--address", "http://127.0.0.1:9", "--config", str(tmp_path / "c.toml")]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert "pw" not in printed


class Client:
    """Of a cluster whose one job has ended; what is in ``fails`` is raised instead of an answer, in turn."""

    def __init__(self, log: str, fails: list[Exception], log_fails: Exception | None = None) -> None:
        self._log, self._fails, self._log_fails = log, fails, log_fails

    def get_job_info(self, number: str) -> Any:
        values = {"submission_id": number, "status": "FAILED", "start_time": 0, "metadata": {}, "driver_exit_code": 3}
        return type("Info", (), values)

    async def tail_job_logs(self, number: str) -> AsyncIterator[str]:
        yield self._log[:5]
        if self._fails:
            raise self._fails.pop()
        yield self._log[5:]

    def get_job_logs(self, number: str) -> str:
        if self._log_fails is not None:
            raise self._log_fails
        return self._log


def connected(client: Client) -> Cluster:
    cluster = Cluster.__new__(Cluster)
    cluster.address, cluster._secret, cluster._client = "http://head:8265", "", client
    return cluster


@needs_jobs
def test_a_log_is_followed_through_any_loss_of_the_connection() -> None:
    from aiohttp import ServerDisconnectedError

    for error in (ServerDisconnectedError(), OSError("reset"), RuntimeError("closed unexpectedly")):
        printed: list[str] = []
        assert connected(Client("one\ntwo\nthree\n", [error])).follow("7", printed.append) == 3
        assert "".join(printed) == "one\ntwo\nthree\n"


@needs_jobs
def test_a_log_that_cannot_be_had_does_not_hide_the_exit_code() -> None:
    printed: list[str] = []
    client = Client("one\ntwo\n", [RuntimeError("no UTF-8")], RuntimeError("status code 500"))
    assert connected(client).follow("7", printed.append) == 3
    assert "cannot be had: The cluster at http://head:8265 says: status code 500" in "".join(printed)


@needs_jobs
def test_output_that_cannot_be_written_is_no_lost_connection() -> None:
    def write(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        connected(Client("one\n", [])).follow("7", write)


def test_a_run_that_is_not_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    job = client.Submission("7", "FAILED", "train", "memory://nowhere/run", None)
    monkeypatch.setattr(Cluster, "job", lambda self, number: job)
    with pytest.raises(InputError, match="has not been written yet"):
        connected(Client("", [])).fetch("7", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_fields_of_a_local_file_are_spelled_out_for_the_cluster(tmp_path: Path) -> None:
    from distnum.cli.options import parsed
    from distnum.cli.submit.command import submitted_command

    (tmp_path / "c.toml").write_text('hidden = [30, 20]\nlearning_rate = 0.5\noptimizer = "adam"\n')
    options = parsed(["submit", "--config", str(tmp_path / "c.toml"), "--steps", "7"])
    command = submitted_command(options)
    refused = parsed(["submit", "--config", str(tmp_path / "c.toml"), "--steps", "0"])
    with pytest.raises(InputError, match="steps is '0'"):
        submitted_command(refused)
    assert command == ["train", "--hidden", "30,20", "--learning-rate", "0.5", "--optimizer", "adam", "--steps", "7"]


def test_a_node_that_does_not_fit_is_told_what_is_missing() -> None:
    assert on_cluster.unmet(["numpy>=1.0", "numpy<1; python_version < '3'"]) == []
    wrong = on_cluster.unmet(["numpy>=99", "no-such-package>=1"])
    assert wrong[0].startswith("numpy is ")
    assert wrong[0].endswith("(>=99 is needed)")
    assert wrong[1] == "no-such-package is missing (no-such-package>=1 is needed)"


def test_where_a_submitted_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    kept = {
        "first": ("~/distnum-runs/first", "/home/somebody/distnum-runs/first"),
        "~/first": ("~/first", "/home/somebody/first"),
        "/data/first": ("/data/first", "/data/first"),
        "s3://runs/first": ("s3://runs/first", "s3://runs/first"),
    }
    for out, (told, there) in kept.items():
        command, where = client._with_out(["train", "--out", out], "number")
        assert (command, where) == (["train", "--out", out, "--address", "auto"], told)
        assert on_cluster.head_path(out) == there
    assert client._with_out(["train"], "number")[1] == "~/distnum-runs/number"


def as_printed(name: str) -> str:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    archived = content.getvalue()
    lines = base64.encodebytes(archived).decode()
    return f"before\ndistnum-packed-begin {hashlib.sha256(archived).hexdigest()}\n{lines}distnum-packed-end\nafter\n"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_an_archive_cannot_write_outside_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is refused"):
        unpack(as_printed(name), tmp_path / "to")


def test_a_packed_folder_is_unpacked_whole_or_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name, content in {"a": b"\0\xff" * 5000, "checkpoints/b": b"b", ".lock": b""}.items():
        (tmp_path / "run" / name).write_bytes(content)
    log = f"something else\n{packed(str(tmp_path / 'run'))}\nthe end\n"
    unpack(log, tmp_path / "to")
    assert (tmp_path / "to" / "a").read_bytes() == b"\0\xff" * 5000
    assert (tmp_path / "to" / "checkpoints" / "b").read_bytes() == b"b"
    assert not (tmp_path / "to" / ".lock").exists()
    lines = log.splitlines()
    for torn in ("", "\n".join(lines[:3]), "\n".join([*lines[:2], *lines[3:]]), log.replace("begin ", "begin 0")):
        with pytest.raises(TrainingError, match="is not whole"):
            unpack(torn, tmp_path / "torn")


# --- a real cluster ---------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(ready: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


class Running:
    """A cluster that ``cluster/local/start.sh`` has started."""

    def __init__(self, home: Path, dashboard: int, environment: dict[str, str]) -> None:
        self.home, self.environment = home, environment
        self.address = f"http://127.0.0.1:{dashboard}"
        self.token_file = home / "token"

    def connect(self) -> Cluster:
        return Cluster(self.address, self.token_file)

    def options(self) -> list[str]:
        return ["--address", self.address, "--token-file", str(self.token_file)]

    def n_nodes(self) -> int:
        import requests

        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        found = requests.get(f"{self.address}/nodes?view=summary", headers=headers, timeout=10).json()
        return sum(1 for one in found["data"]["summary"] if one["raylet"].get("state") == "ALIVE")


# In a process of its own, which takes all its connections with it.
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
    """A port where what listens at another one is reached by TLS, and its new certificate."""
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


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    home, dashboard = Path(f"/tmp/dn{os.getpid()}c"), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DISTNUM_CLUSTER": str(home),
        "DISTNUM_PORT": str(free_port()),
        "DISTNUM_DASHBOARD_PORT": str(dashboard),
        "HOME": str(home / "home"),
    }
    subprocess.run([HERE / "local" / "start.sh", "3", "2"], env=environment, check=True, timeout=120)
    try:
        cluster = Running(home, dashboard, environment)
        wait_for(lambda: cluster.n_nodes() == 3)
        yield cluster
    finally:
        subprocess.run([HERE / "local" / "stop.sh"], env=environment, check=True, timeout=60)
    assert not home.exists()


@needs_jobs
@pytest.mark.cluster
class TestOnACluster:
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
        with pytest.raises(InputError, match="where something is; it must be a new folder"):
            running.connect().fetch(job.number, to)
        # What was fetched is a run like any other.
        assert main(["evaluate", str(to)]) == 0

    def test_a_run_at_a_uri_is_fetched_from_there(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        place = f"file://{tmp_path}/there#1"
        assert main(["submit", *running.options(), *TRAIN, "--steps", "6", "--out", place]) == 0
        assert f"kept in   {place}" in capfd.readouterr().out
        job = running.connect().jobs()[0]
        assert job.out == place
        fetched = running.connect().fetch(job.number, tmp_path / "here")
        assert json.loads((fetched / "result.json").read_text())["steps"] == 6

    def test_a_failed_job_ends_with_its_own_code(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["submit", *running.options(), *TRAIN, "--data", "/no/such/data"]) == 2
        assert "data is '/no/such/data'" in capfd.readouterr().out

    def test_a_script_is_sent_with_its_folder(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "losses.py").write_text("def loss(w, batch):\n    return float(((w - 3) ** 2).sum())\n")
        script = tmp_path / "fit.py"
        script.write_text(
            "import sys\nimport numpy as np\nimport distnum\nfrom losses import loss\n"
            "print('got', sys.argv[1:])\n"
            "print(distnum.train(loss, np.zeros(4), steps=60, workers=2).params.round(2))\nsys.exit(7)\n"
        )
        assert main(["submit", *running.options(), "--script", str(script), "--", "--x", "1"]) == 7
        printed = capfd.readouterr().out
        assert "got ['--x', '1']" in printed
        assert "[3. 3. 3. 3.]" in printed

    def test_a_stopped_training_is_saved_and_resumed_to_the_same_bits(
        self, running: Running, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["submit", *running.options(), "--no-wait", *TRAIN, "--steps", "100000"]) == 0
        number = capfd.readouterr().out.strip()
        run = running.home / "home" / "distnum-runs" / number
        wait_for(lambda: list(run.glob("checkpoints/*")))
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
            # Followed to its end, which takes a web socket.
            assert main(["submit", *trusting, *TRAIN, "--steps", "5"]) == 0
            assert "trained   5 steps" in capfd.readouterr().out
            assert main(["submit", *trusting, "--list"]) == 0
            assert "SUCCEEDED" in capfd.readouterr().out

    def test_a_scaling_experiment(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        few = ["--workers", "1,2,5", "--steps", "2", "--warmup", "1", "--repeats", "1", "--hidden", "8"]
        forecast = ["--forecast", "16", "--workers-per-node", "8", "--out", "scaling"]
        assert main(["submit", *running.options(), "scale", *few, *forecast]) == 0
        printed = capfd.readouterr().out
        assert "3 measurements on 3 nodes" in printed
        assert re.search(r"^ +16 +2 ", printed, re.MULTILINE)
        kept = json.loads((running.home / "home" / "distnum-runs" / "scaling" / "scaling.json").read_text())
        rows = kept["measurements"]
        # Of the cores that there are, those count whose nodes were used.
        assert [(row["workers"], row["nodes"]) for row in rows] == [(1, 1), (2, 2), (5, 3)]
        assert rows[0]["cores"] < rows[1]["cores"] < rows[2]["cores"] == sum(kept["job"]["node_cpus"])
        assert {row["asked_over"] for row in rows} == {"Ray"}
        assert len({row["params_sha256"] for row in rows}) == 1

    def test_a_wrong_token_and_a_wrong_version(
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

    def test_a_step_under_way_is_finished_before_a_job_ends(
        self, running: Running, capfd: pytest.CaptureFixture[str]
    ) -> None:
        # Longer than Ray would wait before it kills.
        slow = ["--method", "naive", "--hidden", "50", "--batch-size", "40"]
        rare = ["--steps", "50", "--checkpoint-every", "99", "--workers", "1"]
        assert main(["submit", *running.options(), "--no-wait", *slow, *rare]) == 0
        number = capfd.readouterr().out.strip()
        run = running.home / "home" / "distnum-runs" / number
        wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n"), 180)
        took = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        assert took["compute_s"] > 3
        assert main(["submit", *running.options(), "--stop", number]) == 0
        assert capfd.readouterr().out.split() == [number, "STOPPED"]
        n_rows = len((run / "metrics.jsonl").read_text().splitlines())
        assert [path.stem for path in run.glob("checkpoints/*")][-1] == f"step-{n_rows:08d}"

    def test_an_address_or_a_token_in_the_environment(
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

    def test_unknown_jobs(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        for option in ("--stop", "--fetch", "--follow"):
            assert main(["submit", *running.options(), option, "distnum-none"]) == 2
            assert "which the cluster does not know" in capfd.readouterr().err

    def test_a_node_that_dies_costs_no_bits(self, running: Running, capfd: pytest.CaptureFixture[str]) -> None:
        """The last test: the cluster has a node less after it."""
        sizes = ["--hidden", "60", "--batch-size", "100", "--workers", "5", "--checkpoint-every", "20"]
        assert main(["submit", *running.options(), "--no-wait", *sizes, "--steps", "400"]) == 0
        number = capfd.readouterr().out.strip()
        run = running.home / "home" / "distnum-runs" / number
        wait_for(lambda: list(run.glob("checkpoints/*")))
        pids = [int(line) for line in (running.home / "pids").read_text().split()]
        os.killpg(pids[-1], signal.SIGKILL)
        assert main(["submit", *running.options(), "--follow", number]) == 0
        assert "is lost" in capfd.readouterr().out
        expected = distnum.train(hidden=60, batch_size=100, steps=400, workers=0).params_sha256
        assert json.loads((run / "result.json").read_text())["params_sha256"] == expected
