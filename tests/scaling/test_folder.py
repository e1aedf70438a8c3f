"""Folders of experiments."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distnum import InputError
from distnum.scaling.experiment import scale
from distnum.scaling.folder import ScalingFolder, locked_folder
from distnum.storage.files import part_of
from tests.scaling.measurements import MEASURED, square
from tests.storage.helpers import deadline


def test_a_locked_folder_is_refused(tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(InputError, match="is in use: another distnum process"):
        scale(square, np.ones(8), workers=[1], out=tmp_path)
    for one in MEASURED[:2]:
        with locked_folder(tmp_path):
            ScalingFolder(tmp_path, {}).add(one, {})
    assert ScalingFolder(tmp_path, {}).measurements == MEASURED[:2]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(os.name != "posix", reason="links and named pipes are those of POSIX")
@pytest.mark.parametrize(
    "put", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "link"]
)
def test_measurements_that_are_no_plain_file_are_refused_at_once(tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(tmp_path / "scaling.json")
    with deadline(), pytest.raises(InputError, match=r"cannot be read: it is (not a plain file|a symbolic link)"):
        ScalingFolder(tmp_path, {})


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    part_of(tmp_path / "scaling.json").write_bytes(b"half")
    (tmp_path / ".mine.part").write_bytes(b"mine")
    with locked_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".mine.part"]


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    folder = ScalingFolder(tmp_path, {})
    folder.check_cluster({"asked_over": "sockets", "node_cpus": (2,)})
    folder.add(MEASURED[0], {})
    again = ScalingFolder(tmp_path, {})
    again.check_cluster({"asked_over": "sockets", "node_cpus": (2,)})
    with pytest.raises(InputError, match=r"with node_cpus = \[2\], now it is \[2, 2\]; choose another folder"):
        again.check_cluster({"asked_over": "sockets", "node_cpus": (2, 2)})
    with pytest.raises(InputError, match="with asked_over = 'sockets', now it is 'Ray'"):
        again.check_cluster({"asked_over": "Ray", "node_cpus": (2,)})


def test_a_folder_keeps_its_rows_and_refuses_another_job(tmp_path: Path) -> None:
    folder = ScalingFolder(tmp_path, {"h": 1e-4, "hidden": (50,)})
    for one in MEASURED[:4]:
        folder.add(one, {"cpu": "a processor"})
    again = ScalingFolder(tmp_path, {"h": 1e-4, "hidden": (50,)})
    assert again.measurements == MEASURED[:4]
    rows = list(csv.DictReader(folder.csv_file.read_text().splitlines()))
    assert [int(row["workers"]) for row in rows] == [1, 2, 4, 1]
    assert rows[0]["cpu"] == "a processor"
    assert float(rows[1]["efficiency"]) == pytest.approx(MEASURED[0].step_s / MEASURED[1].step_s / 2)
    with pytest.raises(InputError, match=r"measurements with h = 0.0001, now it is 0.001; choose another folder"):
        ScalingFolder(tmp_path, {"h": 1e-3, "hidden": (50,)})


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"format": 3}', b'{"format": "distnum-scaling-2"}', b"\xff"])
def test_other_contents_are_refused(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "scaling.json").write_bytes(damaged)
    with pytest.raises(InputError, match="was not written by a scaling experiment"):
        ScalingFolder(tmp_path, {})
    content = {"format": "distnum-scaling-2", "job": {}, "measurements": [MEASURED[0].to_dict() | {"workers": "many"}]}
    (tmp_path / "scaling.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="workers is 'many'"):
        ScalingFolder(tmp_path, {})
    for name, value in (("workers", 0), ("step_s", 0.0), ("update_s", -1.0), ("balance", float("nan")), ("mode", "x")):
        content["measurements"] = [MEASURED[0].to_dict() | {name: value}]
        (tmp_path / "scaling.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"{name} is "):
            ScalingFolder(tmp_path, {})
