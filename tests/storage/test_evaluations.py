"""A store of evaluations loses nothing that was added, and never returns anything else."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distnum.common.errors import InputError
from distnum.storage.evaluation_edits import drop, merge
from distnum.storage.evaluation_rows import FunctionRecord, Rows
from distnum.storage.evaluations import EvaluationStore
from tests.second_user import as_other_user, needs_root

FUNCTION = FunctionRecord("ab" * 16, "model:f", "3.11:00", "cd" * 16, np.array([1.0, 2.0]), 1.0)


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def rows(*numbers: int, failed: tuple[int, ...] = (), factor: float = 1.0, **other: Any) -> Rows:
    """Rows of two outputs, whose values tell their numbers."""
    k = len(numbers)
    values = np.array([[number * factor, -number / 3] for number in numbers])
    failures = []
    for position, number in enumerate(numbers):
        if number in failed:
            values[position] = np.nan
            failures.append([position, "exception", f"no {number}", "Traceback ...", 1, "host"])
    fields: dict[str, Any] = {
        "function": FUNCTION.key,
        "keys": list(map(key, numbers)),
        "names": [f"x[{number}]" for number in numbers],
        "offsets": np.full(k, 1e-6),
        "moved_to": np.array(numbers, float),
        "form": '{"keys": null, "shapes": [[2]], "dtype": "float64"}',
        "values": values,
        "failures": failures,
        "timeout": None,
        "seconds": np.full(k, 0.25),
        "host": "host",
        "time": 1e9,
    }
    return Rows(**fields | other)


def content(store: EvaluationStore) -> dict[int, bytes]:
    """Values by number; b"" for failures."""
    found = {}
    for part in store.all_rows():
        failed = {row[0] for row in part.failures}
        for position, one in enumerate(part.keys):
            bits = b"" if position in failed else part.values[position].tobytes()
            found[int.from_bytes(one, "little")] = bits
    return found


def expected(*numbers: int) -> dict[int, bytes]:
    return {number: np.array([float(number), -number / 3]).tobytes() for number in numbers}


@pytest.fixture(params=["folder", "memory", "file"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "folder":
        yield str(tmp_path / "a" / "store")
    elif request.param == "file":
        yield (tmp_path / "store").as_uri()
    else:
        fsspec = pytest.importorskip("fsspec")
        yield f"memory://{tmp_path.name}/store"
        fsspec.filesystem("memory").store.clear()


def test_what_is_added_is_found_now_and_later(location: str) -> None:
    with EvaluationStore(location) as store:
        store.add_function(FUNCTION)
        store.add(rows(1, 2, 3, failed=(2,)))
        store.add(rows(4))
        assert content(store) == expected(1, 3, 4) | {2: b""}
    for _ in range(2):
        with EvaluationStore(location, new=False) as store:
            assert content(store) == expected(1, 3, 4) | {2: b""}
            assert len(store) == 4
            assert store.functions[FUNCTION.key].name == "model:f"
            np.testing.assert_array_equal(store.functions[FUNCTION.key].x, FUNCTION.x)
            places = store.find([key(4), key(9), key(2), key(1)])
            assert places[1] is None
            assert [store.failed(place) for place in places if place is not None] == [False, True, False]
            there = [place for place in places if place is not None]
            found: dict[int, bytes] = {}
            for part, positions, orders in store.read(there):
                found |= {order: part.keys[at] for at, order in zip(positions, orders, strict=True)}
            assert found == {0: key(4), 1: key(2), 2: key(1)}
            assert next(iter(store.all_rows())).failures == [[1, "exception", "no 2", "Traceback ...", 1, "host"]]


def test_a_value_counts_more_than_a_failure_and_the_first_value_most(location: str) -> None:
    with EvaluationStore(location) as store:
        store.add(rows(1, 2, failed=(1, 2)))
        store.add(rows(1))
        store.add(rows(1, factor=7.0))
    with EvaluationStore(location) as store:
        store.add(rows(1, failed=(1,)))
        assert content(store) == expected(1) | {2: b""}


def test_complex_and_large_values_keep_their_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((1, 200_000)) * (1 + 1j)
    values[0, :3] = complex(np.nan, -0.0), complex(-0.0, np.inf), 5e-324j
    with EvaluationStore(tmp_path / "store") as store:
        store.add(rows(1, values=values, offsets=np.array([1e-20j]), moved_to=np.array([1 + 1e-20j])))
    with EvaluationStore(tmp_path / "store") as store:
        (found,) = store.all_rows()
        assert found.values.tobytes() == values.tobytes()
        assert found.values.dtype == np.complex128
        assert found.offsets[0] == 1e-20j


def test_many_records_are_read(tmp_path: Path) -> None:
    n = 100_000
    with EvaluationStore(tmp_path / "store") as store:
        for begin in range(0, n, 10):
            store.add(rows(*range(begin, begin + 10)))
    with EvaluationStore(tmp_path / "store") as store:
        places = [place for place in store.find(map(key, range(n))) if place is not None]
        assert len(places) == n
        total = sum(part.values[ats, 0].sum() for part, ats, _ in store.read(places))
        assert total == n * (n - 1) / 2


WRITER = """
import sys
from tests.storage.test_evaluations import EvaluationStore, rows
store = EvaluationStore(sys.argv[1])
for number in range(int(sys.argv[2]), 10**9, 3):
    store.add(rows(number, number + 1, number + 2))
    print(number + 3, flush=True)
"""


def start_writer(location: Path | str, first: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(location), str(first)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_process_loses_nothing_it_has_added(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    n = 0
    for _ in range(3):
        process = start_writer(tmp_path / "store", n)
        assert process.stdout is not None
        for _ in range(choose.randint(1, 400)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = process.communicate()[0].split()
        with EvaluationStore(tmp_path / "store") as store:
            found = content(store)
        assert found == expected(*range(len(found)))
        assert len(found) >= (int(acknowledged[-1]) if acknowledged else n)
        n = len(found)


def test_two_processes_can_write_at_once(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path / "store", first) for first in (0, 3_000_000)]
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(200):
            writer.stdout.readline()
    with EvaluationStore(tmp_path / "store") as store:  # while they write
        store.add(rows(9_000_000))
        assert set(content(store)) >= {*range(600), *range(3_000_000, 3_000_600)}
    with pytest.raises(InputError, match="is in use: another process is writing to it"):
        drop(tmp_path / "store", lambda part: list(range(len(part))))
    for writer in writers:
        writer.kill()
        writer.communicate()
    with EvaluationStore(tmp_path / "store") as store:
        found = content(store)
        assert set(found) >= {*range(600), *range(3_000_000, 3_000_600), 9_000_000}
        assert found == expected(*found)


def test_damage_at_any_byte_is_skipped_and_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "store"
    with EvaluationStore(folder) as store:
        store.add_function(FUNCTION)
        for number in range(3):
            store.add(rows(number))
        store.add(rows(3, failed=(3,)))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    right = expected(0, 1, 2) | {3: b""}
    damaged = [whole[:end] for end in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] + whole[at + 5 :] for at in range(0, len(whole), 7)]
    damaged += [whole[:at] + b"\xd1EVAL1\r\n" + b"\xff" * 20 + whole[at:] for at in range(0, len(whole), 11)]
    for one in damaged:
        file.write_bytes(one)
        caplog.clear()
        with EvaluationStore(folder) as store:
            found = content(store)
        assert found.items() <= right.items()
        assert len(found) >= 3 or len(one) < len(whole), "a changed byte costs one record"
        assert len(caplog.records) <= 1
    file.write_bytes(b"x" + whole[1:])
    caplog.clear()
    EvaluationStore(folder).close()
    message = "has 1 damaged or incomplete record, which is skipped; the first is in {} at byte 0."
    assert message.format(file.name) in caplog.text


def test_what_is_damaged_after_opening_is_not_read(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "store") as store:
        store.add(rows(1))
        store.add(rows(2))
        (file,) = (tmp_path / "store").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:-3] + b"xyz")
        assert content(store) == expected(1)


def test_marks_within_values_do_not_matter(tmp_path: Path) -> None:
    mark = np.frombuffer(b"\xd1EVAL1\r\n" * 5_000, float).reshape(1, -1)
    with EvaluationStore(tmp_path / "store") as store:
        store.add(rows(1, values=mark))
        store.add(rows(2))
    (file,) = (tmp_path / "store").iterdir()
    whole = bytearray(file.read_bytes())
    with EvaluationStore(tmp_path / "store") as store:
        assert len(store) == 2
    whole[20] ^= 1
    file.write_bytes(whole)
    with EvaluationStore(tmp_path / "store") as store:
        assert content(store) == expected(2)


def test_records_of_other_types_are_skipped(tmp_path: Path) -> None:
    from distnum.storage.evaluation_rows import content_of_rows
    from distnum.storage.frames import framed

    with EvaluationStore(tmp_path / "store") as store:
        store.add(rows(1))
    (file,) = (tmp_path / "store").iterdir()
    strange: list[dict[str, Any]] = [
        {"values": np.zeros(3)}, {"names": [3]}, {"seconds": None}, {"form": 3}, {"failures": [[5, 1]]}, {"host": []},
    ]  # fmt: skip
    with file.open("ab") as stream:
        for number, other in enumerate(strange, start=2):
            broken = rows(number, **other) if "failures" not in other else rows(number)
            stream.write(framed(content_of_rows(broken)))
        stream.write(framed(b"R\xff\xff\xff\xff") + framed(b"") + framed(b"?") + framed(b"F{}"))
    with EvaluationStore(tmp_path / "store") as store:
        assert {number for number in content(store) if number < 100} <= {1, 6}


def test_a_full_disk_keeps_evaluations_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with EvaluationStore(tmp_path / "store") as store:
        store.add(rows(1))
        with monkeypatch.context() as patch:
            patch.setattr("os.write", half)
            store.add(rows(2))
            store.add(rows(3))
            assert content(store) == expected(1)
        store.add(rows(4))
        assert content(store) == expected(1, 2, 3, 4)
    assert [record.getMessage() for record in caplog.records] == [
        f"store {tmp_path / 'store'} cannot be written: No space left on device. Evaluations go on, and are kept in "
        "memory until it can be."
    ]
    with EvaluationStore(tmp_path / "store") as store:
        assert content(store) == expected(1, 2, 3, 4)
    assert len(caplog.records) == 1


def test_a_uri_gets_new_records_while_the_store_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("distnum.storage.segment_folders.RemoteFolder.flush_s", 0.01)
    monkeypatch.setattr("distnum.storage.segments._COPIED_BYTES", 3000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    uri = f"memory://{tmp_path.name}/quick"
    with EvaluationStore(uri) as writer:
        for number in range(12):
            writer.add(rows(number))
            deadline = time.monotonic() + 10
            found: dict[int, bytes] = {}
            while number not in found:
                assert time.monotonic() < deadline
                with EvaluationStore(uri) as reader:
                    found = content(reader)
                    n_files = len(reader._folder.names())
        assert n_files > 1, "large files are complete and not copied again"
    with EvaluationStore(uri) as reader:
        assert content(reader) == expected(*range(12))
    assert not list(tmp_path.glob("distnum-mirror-*"))


def test_what_cannot_be_copied_to_a_uri_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    uri = f"memory://{tmp_path.name}/fails"
    with monkeypatch.context() as patch, EvaluationStore(uri) as store:
        patch.setattr("distnum.storage.segment_folders.put_file", lambda *_: (_ for _ in ()).throw(OSError("no route")))
        store.add(rows(1))
        store.close()
    (kept,) = tmp_path.glob("distnum-kept-*")
    assert "cannot be written: no route" in caplog.text
    assert f"distnum evaluations {uri} --merge {kept}" in caplog.text
    with EvaluationStore(uri) as store, EvaluationStore(kept, new=False) as other:
        assert merge(store, other) == 1
        assert content(store) == expected(1)


@pytest.mark.skipif(os.name != "posix", reason="permissions and links")
def test_nobody_else_can_read_a_store_and_links_are_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "store"
    with EvaluationStore(folder) as store:
        store.add(rows(1))
        (file,) = folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert drop(folder, lambda part: []) == 0
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(InputError, match="it is a symbolic link, which is not followed"):
        EvaluationStore(folder)
    with pytest.raises(InputError, match="it is a symbolic link, which is not followed"):
        drop(folder, lambda part: [0])
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="not a plain file"):
        EvaluationStore(folder)
    assert elsewhere.stat().st_size > 0


@needs_root
def test_another_user_cannot_enter_a_store(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)
    EvaluationStore(tmp_path / "store").close()
    assert as_other_user(lambda: os.listdir(tmp_path / "store")).startswith("PermissionError")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "paper.tex").write_text("x")
    for place, message in (
        (tmp_path, r"which holds 'paper\.tex', but no evaluations; choose another folder"),
        (tmp_path / "paper.tex", "which cannot be used: File exists"),
        ("", "store is ''"),
        ("s3://bucket/x?token=1", "holds a password or a signature"),
    ):
        with pytest.raises(InputError, match=message):
            EvaluationStore(place)
    for missing in (tmp_path / "missing", f"memory://{tmp_path.name}/missing"):
        with pytest.raises(InputError, match="which is not found"):
            EvaluationStore(missing, new=False)
    assert not (tmp_path / "missing").exists()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "evaluations-1.2").write_text("x")
    with pytest.raises(InputError, match=r"holds 'evaluations-1\.2', of a newer version of distnum"):
        EvaluationStore(tmp_path / "newer")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("distnum.storage.segment_folders.put_file", lambda *_: (_ for _ in ()).throw(OSError("denied")))
    with pytest.raises(InputError, match="which cannot be used: denied"):
        EvaluationStore(f"memory://{tmp_path.name}/store")
    assert not list(tmp_path.iterdir())


@needs_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)
    (tmp_path / "store").mkdir(mode=0o755)
    answer = as_other_user(lambda: EvaluationStore(tmp_path / "store"))
    assert "which cannot be used: Permission denied" in answer


def test_rows_are_dropped(location: str) -> None:
    with EvaluationStore(location) as store:
        store.add_function(FUNCTION)
        store.add(rows(1, 2, 3, failed=(2,)))
    with EvaluationStore(location) as store:
        store.add(rows(4))
    assert drop(location, lambda part: [at for at, name in enumerate(part.names) if name in ("x[1]", "x[4]")]) == 2
    with EvaluationStore(location) as store:
        assert content(store) == expected(3) | {2: b""}
        assert store.functions
    assert drop(location, lambda part: list(range(len(part)))) == 2
    with EvaluationStore(location) as store:
        assert len(store) == 0
        assert not store.functions


def test_stores_are_merged_unless_they_contradict(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "a") as a, EvaluationStore(tmp_path / "b") as b:
        a.add(rows(1, 2, failed=(2,)))
        b.add_function(FUNCTION)
        b.add(rows(1, 2, 3, 4, failed=(4,)))
        assert merge(a, b) == 3
        assert merge(a, b) == 0
        assert content(a) == expected(1, 2, 3) | {4: b""}
        assert a.functions.keys() == b.functions.keys()
    with EvaluationStore(tmp_path / "a") as a, EvaluationStore(tmp_path / "c") as c:
        c.add_function(FUNCTION)
        c.add(rows(9))
        c.add(rows(3, factor=2.0))
        with pytest.raises(InputError, match=r"different values of model:f with x\[3\] moved by \+1e-06"):
            merge(a, c)
        assert 9 not in content(a)
