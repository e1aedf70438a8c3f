"""The kinds of files that distnum reads, valid examples of each, and how they are damaged."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import re
import resource
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies as st

import distnum
from distnum.cli.submit.transfer import unpack
from distnum.common.errors import InputError, TrainingError
from distnum.datasets.readers import load_data, read_idx
from distnum.networks.model import load_model
from distnum.scaling.folder import ScalingFolder
from distnum.scaling.measurement import Measurement
from distnum.storage.checkpoints import State, checkpoint_bytes, read_checkpoint
from distnum.storage.files import CheckpointError, read_toml, sealed, unsealed, write_toml
from distnum.storage.run_folder import RunFolder
from distnum.training.config import Config, config_of

MOST_BYTES = 2**30
MOST_S = 10.0
# Bytes that are often wrong in headers.
_EDGES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"\0" * 8]
_EDGES += [b"1e999", b"'", b'"']


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        read: Reads the bytes of a file, in a folder for it.
        corpus: Valid files.
    """

    read: Callable[[bytes, Path], object]
    corpus: list[bytes]


def readers(folder: Path) -> dict[str, Reader]:
    """Return all kinds of files, made from a run in the folder."""
    run = folder / "run"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 3, 3), np.uint8), np.arange(12, dtype=np.uint8) % 3
    distnum.train(data=(x, y, x, y), hidden=3, steps=2, batch_size=4, workers=0, out=run, optimizer="adam")
    idx = b"\0\0\x08\x03" + np.array(x.shape, ">u4").tobytes() + x.tobytes()
    labels = b"\0\0\x08\x01" + np.array(y.shape, ">u4").tobytes() + y.tobytes()
    return {
        "checkpoint": Reader(
            lambda content, folder: read_checkpoint(content),
            [next((run / "checkpoints").iterdir()).read_bytes(), checkpoint_bytes(State(1, np.ones(3), {}), {"h": 1})],
        ),
        "slices": Reader(
            lambda content, folder: unsealed("distnum-slices-1", content),
            [sealed("distnum-slices-1", {"tiles": np.arange(3), "values": np.ones(9)}, {"step": "1", "loss": "0.5"})],
        ),
        "idx": Reader(partial(_read_file, "images-idx3-ubyte", read_idx), [idx, labels]),
        "idx.gz": Reader(partial(_read_file, "images-idx3-ubyte.gz", read_idx), [gzip.compress(idx, mtime=0)]),
        "npz": Reader(
            partial(_read_file, "data.npz", load_data), [_npz(np.savez, x, y), _npz(np.savez_compressed, x / 255, y)]
        ),
        "toml": Reader(
            partial(_read_file, "config.toml", lambda path: config_of(read_toml(path), str(path))),
            [(run / "config.toml").read_bytes(), write_toml(Config(workers="2:8", h="auto").to_dict()).encode()],
        ),
        "model": Reader(partial(_read_model, run), [(run / "model.safetensors").read_bytes()]),
        "metrics": Reader(partial(_read_rows, run), [(run / "metrics.jsonl").read_bytes()]),
        "scaling": Reader(
            partial(_read_file, "scaling.json", lambda path: ScalingFolder(path.parent, {"h": 1}).measurements),
            [_scaling(folder)],
        ),
        "archive": Reader(_read_archive, [_archive(run)]),
    }


def _scaling(folder: Path) -> bytes:
    measurement = Measurement("strong", 1, 1, 1, 1, 2, 1, *[0.25] * 11, 2, "sockets", "ab", "2026-11-25T12:00:00+00:00")
    (folder / "scaling").mkdir()
    experiment = ScalingFolder(folder / "scaling", {"h": 1})
    experiment.add(measurement, {"cpu": "a processor"})
    return experiment.json_file.read_bytes()


def _archive(run: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(run / "config.toml", "config.toml")
        archive.add(run / "checkpoints", "checkpoints")
    return content.getvalue()


def _read_archive(content: bytes, folder: Path) -> None:
    """Unpack a damaged archive whose checksum is right, so that the archive itself is read."""
    lines = base64.encodebytes(content).decode()
    unpack(f"distnum-packed-begin {hashlib.sha256(content).hexdigest()}\n{lines}distnum-packed-end\n", folder / "to")


def _npz(save: Callable[..., None], x: np.ndarray, y: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file.getvalue()


def _read_file(name: str, read: Callable[[Path], object], content: bytes, folder: Path) -> object:
    path = folder / name
    path.write_bytes(content)
    return read(path)


def _read_model(run: Path, content: bytes, folder: Path) -> object:
    (run / "model.safetensors").write_bytes(content)
    return load_model(RunFolder.look(run))


def _read_rows(run: Path, content: bytes, folder: Path) -> object:
    (run / "metrics.jsonl").write_bytes(content)
    return RunFolder.look(run).rows.read()


@st.composite
def damaged(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """Draw a valid file and change, insert, delete or repeat some of its bytes."""
    content = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of the damage is near the start, where headers are.
        end = draw(st.sampled_from([len(content), min(len(content), 160)]))
        position = draw(st.integers(0, end))
        kind = draw(st.integers(0, 6))
        if kind == 0 and position < len(content):
            content[position] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            edge = draw(st.sampled_from(_EDGES))
            content[position : position + len(edge)] = edge
        elif kind == 2:
            content[position:position] = draw(st.binary(max_size=12))
        elif kind == 3:
            del content[position : position + draw(st.integers(1, 40))]
        elif kind == 4:
            content[position:position] = content[position : position + draw(st.integers(1, 40))]
        elif kind == 5:
            digits = str(draw(st.integers(-(2**70), 2**70))).encode()
            content[position : position + draw(st.integers(0, len(digits)))] = digits
        elif kind == 6:
            del content[position:]
    return bytes(content)


def fuzz(name: str, reader: Reader, n_inputs: int, folder: Path, seed: int = 0) -> int:
    """Read ``n_inputs`` damaged files and return the number read.

    Raises:
        AssertionError: An error is longer than one line, or a file takes too long or too much memory.
        Exception: Any other error than those for bad input.
    """
    n_read = 0
    own_folder = folder / f"fuzz-{name}"
    own_folder.mkdir()
    # Other work of this process may have taken more memory before: count only what the reading adds.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak to the present memory
    before = _peak_bytes()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n_inputs,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(damaged(reader.corpus))
    def read(content: bytes) -> None:
        nonlocal n_read
        n_read += 1
        started = time.monotonic()
        message = ""
        try:
            reader.read(content, own_folder)
        except (InputError, CheckpointError, TrainingError) as error:
            message = str(error)
        assert "\n" not in message.strip(), message
        assert time.monotonic() - started < MOST_S, content

    read()
    added = _peak_bytes() - before
    assert added < MOST_BYTES, f"{name} took {added:,} bytes of memory"
    return n_read


def _peak_bytes() -> int:
    """Return the most memory that this process has used."""
    with contextlib.suppress(OSError, TypeError):
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
