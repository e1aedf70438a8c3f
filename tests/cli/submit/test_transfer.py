"""A run on its way from a cluster: packed into a log, and unpacked."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from distnum import TrainingError
from distnum.cli.submit import transfer
from distnum.cli.submit.transfer import on_head, packed, run_argument, unpack


def as_printed(name: str, kind: bytes = tarfile.REGTYPE) -> str:
    """The log of a job that packed one empty member."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(b""))
    archived = content.getvalue()
    lines = base64.encodebytes(archived).decode()
    return f"before\ndistnum-packed-begin {hashlib.sha256(archived).hexdigest()}\n{lines}distnum-packed-end\nafter\n"


@pytest.mark.parametrize("filters", [True, False], ids=["filter", "no filter"])
@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_an_archive_cannot_write_outside_its_folder(
    name: str, filters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filters:
        monkeypatch.setattr(transfer, "_FILTER", {})
    with pytest.raises(TrainingError, match="is refused"):
        unpack(as_printed(name), tmp_path / "to")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_with_more_than_plain_files_is_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="The cluster sent 'link', which is refused"):
        unpack(as_printed("link", kind), tmp_path / "to")
    assert not list(tmp_path.iterdir())


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


def test_the_argument_that_names_the_run() -> None:
    assert run_argument(["train", "--steps", "3"]) is None
    assert on_head(["train", "--steps", "3"]) == ["train", "--steps", "3"]
    assert run_argument(["scale", "--out=x"]) == (1, "--out=", "x")
    assert on_head(["resume", "/data/x", "--steps", "3"]) == ["resume", "/data/x", "--steps", "3"]
