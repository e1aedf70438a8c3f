"""Jobs on a cluster, without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from distnum import InputError
from distnum.cli.submit import client
from distnum.cli.submit.client import Cluster, Submission
from distnum.cli.submit.connection import Connection
from distnum.cli.submit.transfer import head_path, on_head


def test_a_run_that_was_not_written_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    job = Submission("7", "FAILED", "train", "memory://nowhere/run", None)
    monkeypatch.setattr(Cluster, "job", lambda self, number: job)
    with pytest.raises(InputError, match="has not been written yet"):
        Cluster.__new__(Cluster).fetch("7", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_odd_records_of_jobs_do_not_hide_the_others() -> None:
    def record(number: str | None, start_time: int | None) -> SimpleNamespace:
        metadata = {"distnum_command": "train"}
        return SimpleNamespace(submission_id=number, status="RUNNING", start_time=start_time, metadata=metadata)

    records = [record("1", 1764000000000), record("2", 10**18), record("3", None), record(None, 0)]
    cluster = Cluster.__new__(Cluster)
    cluster._connection = Connection.__new__(Connection)
    cluster._connection.client = SimpleNamespace(list_jobs=lambda: records)
    jobs = cluster.jobs()
    assert [(job.number, job.started is None) for job in jobs] == [("3", True), ("2", True), ("1", False)]


def test_the_folder_of_a_submitted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    kept = {
        "first": ("~/distnum-runs/first", "/home/somebody/distnum-runs/first"),
        "~/first": ("~/first", "/home/somebody/first"),
        "/data/first": ("/data/first", "/data/first"),
        "s3://runs/first": ("s3://runs/first", "s3://runs/first"),
    }
    for out, (where_kept, there) in kept.items():
        command, where = client._with_out(["train", "--out", out], "number")
        assert (command, where) == (["train", "--out", out, "--address", "auto"], where_kept)
        assert head_path(out) == there
        assert on_head(command) == ["train", "--out", there, "--address", "auto"]
    assert client._with_out(["train"], "number")[1] == "~/distnum-runs/number"
