"""The kinds of files and texts that distnum reads, with valid examples of each."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import distnum
from distnum.cli.main import main
from distnum.cli.submit.client import Cluster
from distnum.cli.submit.connection import Connection, _client_class
from distnum.cli.submit.transfer import unpack
from distnum.common.text import first_line, printable
from distnum.datasets.images import read_images
from distnum.datasets.readers import load_data, read_idx
from distnum.evaluation.stores.rows import outcomes_of
from distnum.networks.model import load_model
from distnum.networks.propagation.code_cache import _CheckedFiles
from distnum.scaling.folder import ScalingFolder
from distnum.scaling.measurement import Measurement
from distnum.storage.checkpoints import State, checkpoint_bytes, read_checkpoint
from distnum.storage.evaluation_rows import FunctionRecord, Rows, content_of_function, content_of_rows
from distnum.storage.evaluations import EvaluationStore
from distnum.storage.files import read_toml, sealed, unsealed, write_toml
from distnum.storage.frames import framed
from distnum.storage.remote_lock import RemoteLock, _has_expired
from distnum.storage.run_folder import RunFolder
from distnum.storage.uris import check_no_password
from distnum.training.config import Config, config_of
from distnum.training.from_files import without_connections
from distnum.workers.pool import Reply
from distnum.workers.ray_pool.messages import packed_reply, unpacked_reply
from tests.fuzz.fuzzing import Reader, emptied

__all__ = ["kinds"]


def kinds(folder: Path) -> dict[str, Reader]:
    """Return all kinds by name, made in an empty folder; read them with ``fuzz`` and this folder."""
    run = folder / "run"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 3, 3), np.uint8), np.arange(12, dtype=np.uint8) % 3
    distnum.train(data=(x, y, x, y), hidden=3, steps=2, batch_size=4, workers=0, out=run, optimizer="adam")
    idx = b"\0\0\x08\x03" + np.array(x.shape, ">u4").tobytes() + x.tobytes()
    labels = b"\0\0\x08\x01" + np.array(y.shape, ">u4").tobytes() + y.tobytes()
    config = (run / "config.toml").read_bytes()
    archive = _tar(run)
    index, code = _machine_code(folder)
    return {
        "checkpoint": Reader(
            lambda content, folder: read_checkpoint(content),
            [next((run / "checkpoints").iterdir()).read_bytes(), checkpoint_bytes(State(1, np.ones(3), {}), {"h": 1})],
        ),
        "state": Reader(
            lambda content, folder: read_checkpoint(content), [b'1\n0.5\n{"h": 1, "seed": 0}'], wrap=_checkpoint
        ),
        "slices": Reader(
            lambda content, folder: unsealed("distnum-slices-1", content),
            [sealed("distnum-slices-1", {"tiles": np.arange(3), "values": np.ones(9)}, {"step": "1", "loss": "0.5"})],
        ),
        "idx": Reader(partial(_read_file, "images-idx3-ubyte", read_idx), [idx, labels]),
        "idx.gz": Reader(partial(_read_file, "images-idx3-ubyte.gz", read_idx), [gzip.compress(idx, mtime=0)]),
        "idx in gz": Reader(
            partial(_read_file, "images-idx3-ubyte.gz", read_idx), [idx, labels], wrap=partial(gzip.compress, mtime=0)
        ),
        "npz": Reader(
            partial(_read_file, "data.npz", load_data), [_npz(np.savez, x, y), _npz(np.savez_compressed, x / 255, y)]
        ),
        "array in npz": Reader(partial(_read_file, "data.npz", load_data), [_npy(x), _npy(x / 255)], wrap=_in_npz(y)),
        "npy": Reader(partial(_read_picture, "x.npy"), [_npy(x), _npy(x[0] / 255), _npy(x.reshape(12, 9))]),
        "picture": Reader(partial(_read_picture, "x.png"), _pictures()),
        "png": Reader(partial(_read_picture, "x.png"), _pictures()[:5], wrap=_with_png_checksums),
        "config": Reader(_read_config, [config, write_toml(Config(workers="2:8", h="auto").to_dict()).encode()]),
        "run": Reader(partial(_read_run, "config.toml", config, _config_of_run), [config]),
        "model": Reader(
            partial(_read_run, "model.safetensors", None, load_model), [(run / "model.safetensors").read_bytes()]
        ),
        "metrics": Reader(
            partial(_read_run, "metrics.jsonl", None, lambda run: run.rows.read()),
            [(run / "metrics.jsonl").read_bytes()],
        ),
        "result": Reader(
            partial(_read_run, "result.json", None, lambda run: run.result(2)), [(run / "result.json").read_bytes()]
        ),
        "scaling": Reader(
            partial(_read_file, "scaling.json", lambda path: ScalingFolder(path.parent, {"h": 1}).measurements),
            [_scaling(folder)],
        ),
        "lock": Reader(_read_lock, [b'{"holder": "a", "host": "b", "pid": 7, "time": 1.5e9}']),
        "message": Reader(
            lambda content, folder: unpacked_reply(content),
            [packed_reply(_reply())],
            errors=(ValueError,),
        ),
        "evaluations": Reader(_read_evaluations, [b"".join(map(framed, _evaluations()))]),
        "evaluation records": Reader(_read_evaluations, _evaluations(), wrap=framed),
        "machine code": Reader(lambda content, folder: _read_machine_code(index, content, folder), [code]),
        "code index": Reader(lambda content, folder: _read_machine_code(content, code, folder), [index]),
        "archive": Reader(
            lambda content, folder: _unpack(_printed(content), folder), [gzip.compress(archive, mtime=0)]
        ),
        "files in archive": Reader(
            lambda content, folder: _unpack(_printed(content), folder), [archive], wrap=partial(gzip.compress, mtime=0)
        ),
        "log": Reader(
            lambda content, folder: _unpack(content.decode(errors="replace"), folder),
            [_printed(gzip.compress(archive, mtime=0)).encode()],
        ),
        "jobs": Reader(_read_jobs, _jobs()),
        "text": Reader(_read_text, ["\x1b[31mred\x1b[0m Übung \u202e\r\n".encode(), b"https://u:p@h/x?sig=1 /a?b=c"]),
        "uri": Reader(_read_uri, [uri.encode() for uri in _URIS]),
    }


def _read_file(name: str, read: Callable[[Path], object], content: bytes, folder: Path) -> object:
    path = folder / name
    path.write_bytes(content)
    return read(path)


# --- checkpoints, data and pictures -------------------------------------------------


def _checkpoint(content: bytes) -> bytes:
    """A checkpoint whose texts are damaged and whose checksum is right."""
    step, rate_factor, config = [*content.decode("latin1").split("\n", 2), "", ""][:3]
    about = {"step": step, "rate_factor": rate_factor, "config": config}
    return sealed("distnum-checkpoint-1", {"params": np.ones(3)}, about)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(save: Callable[..., None], x: NDArray[Any], y: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    save(file, x_train=x, y_train=y, x_test=x, y_test=y)
    return file.getvalue()


def _in_npz(y: NDArray[Any]) -> Callable[[bytes], bytes]:
    """Return a function that puts a damaged array into an archive of undamaged labels."""
    labels = _npy(y)

    def wrap(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for split in ("train", "test"):
                archive.writestr(f"x_{split}.npy", content)
                archive.writestr(f"y_{split}.npy", labels)
        return file.getvalue()

    return wrap


def _pictures() -> list[bytes]:
    """Small pictures of all modes and formats; PNG files first."""
    colors = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8))
    shades = Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000)
    made = [(colors.convert(mode), "PNG", {}) for mode in ("L", "RGBA", "P", "1")]
    made += [(shades, "PNG", {}), (colors.convert("P"), "GIF", {"transparency": 3}), (colors, "WEBP", {})]
    made += [(colors.convert(mode), "JPEG", {}) for mode in ("L", "CMYK")] + [(colors.convert("RGB"), "BMP", {})]
    made += [(colors.convert("RGB"), "PPM", {}), (shades, "TIFF", {}), (colors, "TIFF", {"compression": "tiff_lzw"})]
    pictures = []
    for picture, form, options in made:
        file = io.BytesIO()
        picture.save(file, form, **options)
        pictures.append(file.getvalue())
    return pictures


def _with_png_checksums(content: bytes) -> bytes:
    """A PNG file whose chunks have right checksums."""
    fixed, begin = bytearray(content), 8
    while begin + 12 <= len(content):
        end = begin + 8 + int.from_bytes(content[begin : begin + 4], "big")
        if end + 4 > len(content):
            break
        fixed[end : end + 4] = zlib.crc32(content[begin + 4 : end]).to_bytes(4, "big")
        begin = end + 4
    return bytes(fixed)


def _read_picture(name: str, content: bytes, folder: Path) -> object:
    (folder / name).write_bytes(content)
    return read_images(folder / name, (3, 3), True, np.float64)


# --- runs, scaling experiments, locks, machine code ---------------------------------


def _read_config(content: bytes, folder: Path) -> object:
    path = folder / "config.toml"
    path.write_bytes(content)
    config = without_connections(config_of(read_toml(path), str(path)), {"workers": 0}, str(path))
    return write_toml(config.to_dict())


def _read_run(
    name: str, undamaged: bytes | None, read: Callable[[RunFolder], object], content: bytes, folder: Path
) -> object:
    path = folder / "run" / name
    path.write_bytes(content)
    try:
        return read(RunFolder.look(folder / "run"))
    finally:
        if undamaged is not None:
            path.write_bytes(undamaged)


def _config_of_run(run: RunFolder) -> object:
    return config_of(run.config_values(), str(run.config_file)), load_model(run)


def _scaling(folder: Path) -> bytes:
    measurement = Measurement("strong", 1, 1, 1, 1, 2, 1, *[0.25] * 11, 2, "sockets", "ab", "2026-11-25T12:00:00+00:00")
    (folder / "scaling").mkdir()
    experiment = ScalingFolder(folder / "scaling", {"h": 1})
    experiment.add(measurement, {"cpu": "a processor"})
    return experiment.json_file.read_bytes()


def _read_lock(content: bytes, folder: Path) -> object:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/fuzz/.lock", content)
    held = RemoteLock("memory://fuzz", fs, "/fuzz", "me")._read()
    assert held is not None
    return _has_expired(held)


def _reply() -> Reply:
    return Reply(np.arange(3.0), 0.5, None, 0.25, 0.5, np.ones(2))


def _evaluations() -> list[bytes]:
    """Records of a store of evaluations."""
    x = np.arange(2.0)
    function = FunctionRecord("ab" * 16, "model:f", "3.11:00", "cd" * 16, x, 1.0)
    form, failures = '{"keys": ["a"], "shapes": [[2]], "dtype": "float64"}', [[1, "timeout", "too long", "", 1, "host"]]
    keys, values = [bytes(16), b"x" * 16], np.array([[0.5, 1.0], [np.nan, np.nan]])
    rows = Rows("ab" * 16, keys, ["x[0]", ""], x, x, form, values, failures, 5.0, x, "host", 1.0)
    return [content_of_function(function), content_of_rows(rows), content_of_rows(rows.take([0]))]


def _read_evaluations(content: bytes, folder: Path) -> None:
    (folder / "store").mkdir(exist_ok=True)
    (folder / "store" / "evaluations-20260101T000000000000-0123456789abcdef.1").write_bytes(content)
    with EvaluationStore(folder / "store", new=False) as store:
        for rows in store.all_rows():
            with contextlib.suppress(ValueError):
                outcomes_of(rows, range(len(rows)), np.arange(len(rows)))
    with contextlib.redirect_stdout(io.StringIO()):
        for more in ([], ["--csv", str(folder / "table.csv")]):
            assert main(["evaluations", str(folder / "store"), *more]) == 0


def _code_files(folder: Path) -> _CheckedFiles:
    owners = frozenset({folder.stat().st_uid})
    return _CheckedFiles(owners=owners, cache_path=str(folder), filename_base="x", source_stamp="s")


def _machine_code(folder: Path) -> tuple[bytes, bytes]:
    """The index and the data that Numba keeps for one function."""
    (folder / "code").mkdir()
    _code_files(folder / "code").save("signature", {"code": bytes(300)})
    return (folder / "code" / "x.nbi").read_bytes(), (folder / "code" / "x.1.nbc").read_bytes()


def _read_machine_code(index: bytes, code: bytes, folder: Path) -> None:
    """A damaged file is never loaded, and is replaced when it is written again."""
    files, whole = _code_files(folder / "code"), {"code": bytes(300)}
    (folder / "code" / "x.nbi").write_bytes(index)
    (folder / "code" / "x.1.nbc").write_bytes(code)
    assert files.load("signature") in (None, whole)
    files.save("signature", whole)
    assert files.load("signature") == whole


# --- what comes from a cluster, and texts -------------------------------------------


def _tar(run: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(run / "config.toml", "config.toml")
        archive.add(run / "checkpoints", "checkpoints")
        archive.add(run / "result.json", f"{'a' * 120}.json")
    return content.getvalue()


def _printed(archived: bytes) -> str:
    """The log with an archive whose checksum is right, so that the archive itself is read."""
    lines = base64.encodebytes(archived).decode()
    return f"distnum-packed-begin {hashlib.sha256(archived).hexdigest()}\n{lines}distnum-packed-end\n"


def _unpack(log: str, folder: Path) -> None:
    """Whatever the archive holds, nothing but plain files appears, and nothing outside its folder."""
    outer = emptied(folder / "unpacked")
    try:
        unpack(log, outer / "to")
    finally:
        assert set(outer.iterdir()) <= {outer / "to"}
        assert all(path.is_dir() or (path.is_file() and not path.is_symlink()) for path in outer.rglob("*"))


def _jobs() -> list[bytes]:
    job = {
        "type": "SUBMISSION",
        "submission_id": "distnum-1",
        "status": "RUNNING",
        "entrypoint": "python -m distnum.cli.on_cluster train",
        "metadata": {"distnum_command": "train --steps 3", "distnum_out": "~/distnum-runs/distnum-1"},
        "start_time": 1764000000000,
        "runtime_env": {},
        "driver_exit_code": 0,
        "message": "running",
    }
    return [json.dumps([job, job | {"status": "FAILED"}]).encode(), json.dumps([job | {"metadata": None}]).encode()]


def _read_jobs(content: bytes, folder: Path) -> object:
    """The list of jobs, from the bytes of the dashboard's answer."""
    from requests import Response

    kind = _client_class()
    client = kind.__new__(kind)

    def answer(*arguments: Any, **options: Any) -> Response:
        response = Response()
        response.status_code, response._content = 200, content
        return response

    client._do_request = answer
    cluster = Cluster.__new__(Cluster)
    cluster._connection = Connection.__new__(Connection)
    cluster._connection.address, cluster._connection._token, cluster._connection.client = "http://head", "", client
    return [f"{job.number} {job.status:<9} {job.started:%Y} {job.command}" for job in cluster.jobs() if job.started]


def _read_text(content: bytes, folder: Path) -> None:
    text = content.decode(errors="surrogateescape")
    for shown in (printable(text), first_line(ValueError(printable(text)))):
        assert not any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs") for character in shown)
    assert printable(printable(text)) == printable(text)


_URIS = (
    "https://host/data.npz",
    "https://user:0a1b@host/data.npz",
    "HTTPS://host:80/x.npz?token=0a1b#b",
    "zip://a.npz::simplecache::http://host/x.zip",
    "sftp://user:0a1b@host/run",
    "sftp://user@host:22/run",
    "github://org:repo@branch/path",
    "s3://bucket/x.npz?X-Amz-Signature=0a1b",
)


def _read_uri(content: bytes, folder: Path) -> None:
    """What is accepted holds, by the rules of URLs, no user name or query of http and no password."""
    uri = content.decode(errors="replace")
    check_no_password(uri, "data")
    for part in uri.split("::"):
        try:
            url = urlsplit(part)
            password = url.password
        except ValueError:
            continue
        if not (url.scheme and url.netloc):
            continue
        if url.scheme in ("http", "https"):
            assert "@" not in url.netloc, uri
            assert not url.query, uri
            assert not url.fragment, uri
        assert not password or url.scheme in ("file", "local", "github", "git"), uri
