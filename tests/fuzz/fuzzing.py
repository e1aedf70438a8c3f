"""The kinds of files and texts that distnum reads, valid examples of each, and the reading of damaged ones."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from distnum.common.errors import InputError, TrainingError
from distnum.storage.files import CheckpointError
from tests.fuzz.damage import damaged

__all__ = ["MOST_BYTES", "MOST_S", "Failed", "Reader", "fuzz"]

MOST_BYTES = 2**30
MOST_S = 10.0


class Failed(Exception):
    """An input gave no clear error, or took too long or too much memory."""


class _TooLong(BaseException):
    pass


@dataclass(frozen=True)
class Reader:
    """One kind of file or text.

    Attributes:
        read: Reads the bytes of a file, in a folder for it; raises ``AssertionError`` if a promise is broken.
        corpus: Valid files.
        wrap: Puts damaged bytes into an undamaged container, so that more than the container's checksum is tested.
        errors: The clear errors.
    """

    read: Callable[[bytes, Path], object]
    corpus: list[bytes]
    wrap: Callable[[bytes], bytes] = bytes
    errors: tuple[type[Exception], ...] = (InputError, CheckpointError, TrainingError)


def fuzz(name: str, reader: Reader, n_inputs: int, folder: Path, seed: int = 0, first: int = 0) -> int:
    """Read damaged files of one kind; return how many of them were refused.

    Args:
        name: The kind.
        reader: Its reader.
        n_inputs: Number of files.
        folder: A folder for them.
        seed, first: They and the kind determine the files, which are numbered from ``first``.

    Raises:
        Failed: For the first file that gives another error than the clear ones, an error of more than a line or with
            control characters, or that takes more than ``MOST_S`` or ``MOST_BYTES``.
    """
    # Other work of this process may have taken more memory before: count only what the reading adds.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak to the present memory
    before = _peak_bytes()
    n_refused = 0
    for number in range(first, first + n_inputs):
        content = reader.wrap(damaged(reader.corpus, Random(f"{seed} {name} {number}")))
        started = time.monotonic()
        problem = ""
        try:
            with _at_most(MOST_S):
                reader.read(content, folder)
        except reader.errors as error:
            n_refused += 1
            ours = isinstance(error, (InputError, TrainingError))
            problem = f"the message {str(error)!r:.300}" if ours and _acts(str(error).strip()) else ""
        except _TooLong:
            problem = "no end"
        except Exception as error:
            problem = f"{type(error).__name__}: {error!s:.300}"
        if not problem and time.monotonic() - started > MOST_S:
            problem = f"{time.monotonic() - started:.1f} s"
        if not problem and (added := _peak_bytes() - before) > MOST_BYTES:
            problem = f"{added:,} bytes of memory"
        if problem:
            raise Failed(f"{name}, input {number} of seed {seed}, gave {problem}. Its bytes: {content[:300]!r}")
    return n_refused


def _acts(message: str) -> bool:
    """Whether a message for the user has several lines or holds a control character."""
    return bool(re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", message))


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, where the system has timers and this is the main thread."""

    def interrupt(number: int, frame: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_bytes() -> int:
    """Return the most memory that this process has used."""
    with contextlib.suppress(OSError, TypeError):
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def emptied(folder: Path) -> Path:
    """Return the folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
