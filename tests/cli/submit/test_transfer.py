"""A run on its way from a cluster: packed into a log, and unpacked."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from distnum import TrainingError
from distnum.cli.submit import transfer
from distnum.cli.submit.transfer import on_head, packed, run_argument, unpack


def printed(archived: bytes) -> str:
    """The log of a job that packed an archive."""
    lines = base64.encodebytes(archived).decode()
    return f"before\ndistnum-packed-begin {hashlib.sha256(archived).hexdigest()}\n{lines}distnum-packed-end\nafter\n"


def as_printed(*names: str, kind: bytes = tarfile.REGTYPE) -> str:
    """The log of a job that packed empty members."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(b""))
    return printed(content.getvalue())


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "", ".", "a\x1b[2Jb", "a\u202eb"])
def test_an_archive_cannot_write_outside_its_folder_or_odd_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is refused") as refused:
        unpack(as_printed("before", name), tmp_path / "to")
    assert str(refused.value).isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("again", ["a", "./a", "a/"])
def test_an_archive_that_holds_a_file_twice_is_refused(again: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="or comes twice"):
        unpack(as_printed("a", again), tmp_path / "to")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_with_more_than_plain_files_is_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="The cluster sent 'link', which is refused"):
        unpack(as_printed("link", kind=kind), tmp_path / "to")
    assert not list(tmp_path.iterdir())


def header(size: int, kind: bytes = tarfile.REGTYPE, name: str = "a") -> bytes:
    """The header of a member, in GNU's format, which can declare any size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse() -> bytes:
    """A file of a terabyte that holds nothing: a GNU sparse header with no blocks."""
    block = bytearray(header(0, tarfile.GNUTYPE_SPARSE))
    block[483:495] = f"{2**33 - 1:011o}\0".encode()
    block[148:156] = b"        "
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + bytes(1024)


def sparse_pax() -> bytes:
    """The same in the format of POSIX."""
    member = tarfile.TarInfo("a")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    member.size = 512
    return member.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024)


MIB = 2**20
HOSTILE = {
    "a file of 5 GiB": lambda: header(5 * 2**30),
    "files of 6 GiB": lambda: b"".join(header(0, name=f"{i}") for i in range(9)) + header(6 * 2**30),
    "more files than allowed": lambda: b"".join(header(0, name=f"{i}") for i in range(1001)),
    "a sparse file": sparse,
    "a sparse file of POSIX": sparse_pax,
    "a header of 100 MiB": lambda: header(100 * MIB, tarfile.XHDTYPE) + bytes(100 * MIB),
    "headers for all of 100 MiB": lambda: header(100 * MIB, tarfile.XGLTYPE) + bytes(100 * MIB),
    "a name of 100 MiB": lambda: header(100 * MIB, tarfile.GNUTYPE_LONGNAME) + b"a" * (100 * MIB),
    "many long headers": lambda: b"".join(
        header(60_000, tarfile.XGLTYPE, f"{i}") + bytes(60_416) + header(0, name=f"{i}") for i in range(600)
    ),
    "headers of headers": lambda: (header(0, tarfile.GNUTYPE_LONGNAME) * 5000) + header(0),
}


@pytest.mark.parametrize("made", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_archive_made_to_fill_memory_or_disk_is_refused_while_it_is_read(
    made: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MOST_FILES", 1000)
    log = printed(gzip.compress(made() + bytes(1024), 1, mtime=0))
    tracemalloc.start()
    try:
        with pytest.raises(TrainingError):
            unpack(log, tmp_path / "to")
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 64 * MIB
    assert not list(tmp_path.iterdir())


def test_an_archive_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    log = f"distnum-packed-begin {'0' * 64}\n{'A' * (400 * MIB)}\ndistnum-packed-end\n"
    with pytest.raises(TrainingError, match="too large a run; it may have 256 MiB packed"):
        unpack(log, tmp_path / "to")


def test_a_run_that_is_too_large_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(2000))
    for limit, value in (("MOST_PACKED", 20), ("MOST_UNPACKED", 1000), ("MOST_FILES", 0)):
        with monkeypatch.context() as changed:
            changed.setattr(transfer, limit, value)
            with pytest.raises(TrainingError, match=r"is too large to be fetched; .* need --out URI"):
                packed(str(tmp_path))


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
