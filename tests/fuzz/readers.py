"""What is read from disk, files to begin with, and how they are damaged."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
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
# Numbers that headers are most often wrong with.
_EDGES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"\0" * 8]
_EDGES += [b"1e999", b"'", b'"']


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        read: reads the bytes of one, in a folder for it.
        corpus: whole ones.
    """

    read: Callable[[bytes, Path], object]
    corpus: list[bytes]


def readers(folder: Path) -> dict[str, Reader]:
    """All kinds of files, from a run in a folder."""
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
    one = Measurement("strong", 1, 1, 1, 1, 2, 1, *[0.25] * 11, 2, "sockets", "ab", "2026-11-25T12:00:00+00:00")
    made = ScalingFolder(folder / "scaling", {"h": 1})
    made.add(one, {"cpu": "a processor"})
    return made.json_file.read_bytes()


def _archive(run: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(run / "config.toml", "config.toml")
        archive.add(run / "checkpoints", "checkpoints")
    return content.getvalue()


def _read_archive(content: bytes, folder: Path) -> None:
    """The damage is in what is packed, not in the text around it, whose checksum would tell."""
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
    return RunFolder.look(run).rows()


@st.composite
def damaged(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """One of some files with bytes changed, put in, taken out or repeated; or any bytes."""
    content = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of the damage near the beginning, where headers are.
        end = draw(st.sampled_from([len(content), min(len(content), 160)]))
        place = draw(st.integers(0, end))
        what = draw(st.integers(0, 6))
        if what == 0 and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            edge = draw(st.sampled_from(_EDGES))
            content[place : place + len(edge)] = edge
        elif what == 2:
            content[place:place] = draw(st.binary(max_size=12))
        elif what == 3:
            del content[place : place + draw(st.integers(1, 40))]
        elif what == 4:
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        elif what == 5:
            digits = str(draw(st.integers(-(2**70), 2**70))).encode()
            content[place : place + draw(st.integers(0, len(digits)))] = digits
        elif what == 6:
            del content[place:]
    return bytes(content)


def fuzz(name: str, reader: Reader, n_inputs: int, folder: Path, seed: int = 0) -> int:
    """Read so many damaged files; returns how many were. What is not a clear error is raised."""
    n_read = 0
    place = folder / f"fuzz-{name}"
    place.mkdir()

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
        began = time.monotonic()
        told = ""
        try:
            reader.read(content, place)
        except (InputError, CheckpointError, TrainingError) as error:
            told = str(error)
        assert "\n" not in told.strip(), told
        assert time.monotonic() - began < MOST_S, content

    read()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert used < MOST_BYTES, f"{name} took {used:,} bytes of memory"
    return n_read
