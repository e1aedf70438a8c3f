"""Machine code on disk: damaged files are made again, and files of others are never loaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.second_user import OTHER_USER, needs_root

MODULE = """
def double(x):
    for i in range(len(x)):
        x[i] = 2 * x[i]
"""
CALL = """
import logging, sys
import numpy as np
from distnum.networks.propagation.compiled import Kernel
from doubling import double

logging.basicConfig(level=logging.INFO, format="%(message)s")
x = np.arange(3.0)
Kernel(double)(x)
assert x.tolist() == [0, 2, 4]
"""


class Place:
    """A module with a kernel, a folder for machine code, and processes that call the kernel."""

    def __init__(self, folder: Path) -> None:
        self.code, self.kept = folder / "code", folder / "kept"
        self.code.mkdir(mode=0o755)
        (self.code / "doubling.py").write_text(MODULE)

    def call(self) -> str:
        """Call the kernel in a new process; return its remarks."""
        environment = os.environ | {"NUMBA_CACHE_DIR": str(self.kept), "PYTHONPATH": str(self.code)}
        done = subprocess.run(
            [sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def files(self) -> list[Path]:
        return sorted(self.kept.rglob("*.nb?"))

    def folder(self) -> Path:
        return self.files()[0].parent


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def checksum(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + content).digest()


def is_whole(path: Path) -> bool:
    content = path.read_bytes()
    return checksum(path, content[:-32]) == content[-32:]


def flipped(content: bytes) -> bytes:
    """Flip bits in the object code, which crashes a process that loads it; in an index, near its end."""
    begin = content.find(b"\x7fELF") if b"\x7fELF" in content else len(content) // 2
    return bytes(byte ^ 4 if i > begin and i % 20 == 0 else byte for i, byte in enumerate(content))


def one_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES: list[Callable[[bytes], bytes]] = [
    flipped,
    one_bit,
    lambda content: content[: len(content) // 2],
    lambda _: b"",
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "one bit", "cut short", "empty"])
def test_damaged_machine_code_is_made_again(damage: Callable[[bytes], bytes], place: Place) -> None:
    place.call()
    assert [path.suffix for path in place.files()] == [".nbc", ".nbi"]
    for path in place.files():
        path.write_bytes(damage(path.read_bytes()))
    assert "compiling" in place.call()
    assert [path.suffix for path in place.files()] == [".nbc", ".nbi"]
    assert all(is_whole(path) for path in place.files())
    assert place.call() == ""


@pytest.mark.slow
def test_machine_code_in_the_place_of_another_is_made_again(place: Place) -> None:
    place.call()
    index, code = sorted(place.files(), key=lambda path: path.suffix, reverse=True)
    code.write_bytes(index.read_bytes())
    assert "compiling" in place.call()
    assert is_whole(code)


def test_machine_code_is_found_again(place: Place) -> None:
    assert "compiling" in place.call()
    assert place.folder().stat().st_mode & 0o777 == 0o700
    assert place.call() == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_a_folder_that_others_can_write_is_passed_over(place: Place) -> None:
    place.call()
    folder = place.folder()
    for path in place.files():
        path.unlink()
    folder.chmod(0o777)
    remarks = place.call()
    assert f"{folder} is not used for compiled code, as it can be written by others" in remarks
    assert place.files() == []
    assert sorted(path.suffix for path in (place.code / "__pycache__").glob("*.nb?")) == [".nbc", ".nbi"]


class _Run:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@needs_root
@pytest.mark.slow
def test_files_of_another_user_are_not_loaded(place: Place, tmp_path: Path) -> None:
    place.call()
    for path in place.files():
        content = pickle.dumps(_Run(f"touch {tmp_path}/executed"))
        path.write_bytes(content + checksum(path, content))
        os.chown(path, OTHER_USER, OTHER_USER)
    assert "compiling" in place.call()
    assert not (tmp_path / "executed").exists()
    assert all(is_whole(path) and path.stat().st_uid == 0 for path in place.files())
    folder = place.folder()
    os.chown(folder, OTHER_USER, OTHER_USER)
    assert f"{folder} is not used for compiled code, as it belongs to another user" in place.call()
