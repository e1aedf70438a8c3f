"""Some damaged files of each kind; ``python -m tests.fuzz`` reads any number."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from distnum import InputError
from tests.fuzz import fuzzing
from tests.fuzz.damage import damaged
from tests.fuzz.fuzzing import Failed, Reader, fuzz
from tests.fuzz.kinds import kinds

KINDS = ["checkpoint", "state", "slices", "idx", "idx.gz", "idx in gz", "npz", "array in npz", "npy", "picture", "png"]
KINDS += ["config", "run", "model", "metrics", "result", "scaling", "lock", "message"]
KINDS += ["evaluations", "evaluation records", "machine code", "code index"]
KINDS += ["archive", "files in archive", "log", "jobs", "text", "uri"]

# Damage of these is no error: the file counts as missing, is made again, is skipped, or any text is printable.
PASSED_OVER = {"result", "lock", "evaluations", "evaluation records", "machine code", "code index", "text"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Reader], Path]:
    pytest.importorskip("aiohttp", reason="ray[default] is not installed")
    folder = tmp_path_factory.mktemp("fuzz")
    return kinds(folder), folder


def test_all_kinds_are_read_here(made: tuple[dict[str, Reader], Path]) -> None:
    assert list(made[0]) == KINDS


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_give_clear_errors(name: str, made: tuple[dict[str, Reader], Path]) -> None:
    n_refused = fuzz(name, made[0][name], 60, made[1])
    assert (n_refused == 0) == (name in PASSED_OVER)


def test_the_seed_the_kind_and_the_number_determine_a_file() -> None:
    corpus = [bytes(range(200))]
    assert damaged(corpus, Random("0 npz 7")) == damaged(corpus, Random("0 npz 7"))
    assert len({damaged(corpus, Random(f"0 npz {number}")) for number in range(100)}) > 90


def unclear(content: bytes, folder: Path) -> None:
    raise KeyError("x")


def of_two_lines(content: bytes, folder: Path) -> None:
    raise InputError("one\ntwo")


def endless(content: bytes, folder: Path) -> None:
    time.sleep(60)


def large(content: bytes, folder: Path) -> None:
    assert len(bytearray(b"a") * 200_000_000) > 0


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (unclear, "KeyError: 'x'"),
        (of_two_lines, "the message 'one"),
        (endless, "no end"),
        (large, "bytes of memory"),
    ],
)
def test_what_is_no_clear_error_fails(
    read: Callable[[bytes, Path], object], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "MOST_S", 0.5)
    monkeypatch.setattr(fuzzing, "MOST_BYTES", 10**8)
    with pytest.raises(Failed, match=f"x, input 0 of seed 0, gave .*{problem}"):
        fuzz("x", Reader(read, [b"content"]), 1, tmp_path)
