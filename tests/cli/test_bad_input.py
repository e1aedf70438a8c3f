"""Bad input ends with exit code 2 and one line that names it, and changes nothing on the disk."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import distnum
from distnum.cli.main import main
from distnum.storage.run_folder import RunFolder

Prepare = Callable[[Path, Path], object]
"""Puts bad input into the folder that is its first argument; the second one holds valid runs and data."""

# Python refuses to convert numbers with more than 4,300 digits.
DIGITS = "9" * 6000


@dataclass(frozen=True)
class Case:
    """A command line and the words that its error message must contain.

    Attributes:
        name: Name of the test.
        arguments: The command line.
        words: Words that the message must contain.
        prepare: Makes the bad input.
        header: Whether the training is described before the message.
        draws: Whether pictures are drawn before the message.
        leaves: Files that the command may leave behind.
    """

    name: str
    arguments: list[str]
    words: list[str]
    prepare: Prepare | None = None
    header: bool = False
    draws: bool = False
    leaves: tuple[str, ...] = ()


# --- kinds of bad input ------------------------------------------------------------------------


def write(name: str, content: str | bytes) -> Prepare:
    def prepare(place: Path, kept: Path) -> None:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def pixels(n: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4), dtype=np.uint8)


GOOD: dict[str, Any] = {
    "x_train": pixels(20, 1),
    "y_train": np.arange(20) % 3,
    "x_test": pixels(6, 2),
    "y_test": np.arange(6) % 3,
}


SMALL: dict[str, Any] = {
    "x_train": np.zeros((3, 4)),
    "y_train": np.array([0, 1, 0]),
    "x_test": np.zeros((3, 4)),
    "y_test": np.array([0, 1, 0]),
}


def archive_bytes(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npz_bytes(**changes: Any) -> bytes:
    return archive_bytes(GOOD | changes)


def npz(**changes: Any) -> Prepare:
    return write("d.npz", npz_bytes(**changes))


def npy_bytes(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy(array: Any) -> Prepare:
    return write("a.npy", npy_bytes(array))


def npy_header(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def with_member(content: bytes) -> Prepare:
    """An archive with this content as ``x_train.npy``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in GOOD.items():
            archive.writestr(f"{name}.npy", content if name == "x_train" else npy_bytes(array))
    return write("d.npz", file.getvalue())


def changed(content: bytes, *changes: tuple[int, int]) -> bytes:
    """The content with the bytes at some positions replaced."""
    replaced = bytearray(content)
    for position, byte in changes:
        replaced[position] = byte
    return bytes(replaced)


def in_every_header(content: bytes, local: int, central: int, byte: int) -> bytes:
    """An archive with one byte replaced in the headers of all its members."""
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = content.find(mark)
        while at >= 0:
            content = changed(content, (at + offset, byte))
            at = content.find(mark, at + 1)
    return content


def idx_bytes(kind: int, shape: tuple[int, ...], content: bytes) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


LABELS = "train-labels-idx1-ubyte"
IDX = {
    "train-images-idx3-ubyte": idx_bytes(8, (20, 4, 4), pixels(20, 1).tobytes()),
    LABELS: idx_bytes(8, (20,), bytes(i % 3 for i in range(20))),
    "t10k-images-idx3-ubyte": idx_bytes(8, (6, 4, 4), pixels(6, 2).tobytes()),
    "t10k-labels-idx1-ubyte": idx_bytes(8, (6,), bytes(i % 3 for i in range(6))),
}


def idx(labels: bytes | None, ending: str = "", **others: bytes) -> Prepare:
    """A folder with the four IDX files, with this content of the training labels."""

    def prepare(place: Path, kept: Path) -> None:
        (place / "idx").mkdir()
        for name, content in (IDX | {name.replace("_", "-"): content for name, content in others.items()}).items():
            if name != LABELS:
                (place / "idx" / name).write_bytes(content)
            elif labels is not None:
                (place / "idx" / (name + ending)).write_bytes(labels)

    return prepare


def run_with(of: str, damage: Callable[[Path], object] | None = None) -> Prepare:
    """A copy of a run, damaged."""

    def prepare(place: Path, kept: Path) -> None:
        shutil.copytree(kept / of, place / "run")
        if damage is not None:
            damage(place / "run")

    return prepare


def broken_run(place: Path, kept: Path) -> None:
    """A run with every file damaged."""
    write("broken/config.toml", "steps = 5")(place, kept)
    write("broken/metrics.jsonl", "")(place, kept)
    write("broken/model.safetensors", b"\x10\0\0\0\0\0\0\0nonsense")(place, kept)
    write("broken/checkpoints/step-00000004.safetensors", b"torn")(place, kept)


def both(*parts: Prepare) -> Prepare:
    def prepare(place: Path, kept: Path) -> None:
        for part in parts:
            part(place, kept)

    return prepare


def in_config(old: str, new: str) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        text = (run / "config.toml").read_text()
        assert old in text
        (run / "config.toml").write_text(text.replace(old, new))

    return damage


def put(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:length])


def flip_last_byte(name: str) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(changed(content, (-1, content[-1] ^ 1)))

    return damage


def a_folder_instead(name: str) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return damage


def cut_all_checkpoints(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])


def another_model(change: Callable[[dict[str, Any], dict[str, str]], object]) -> Callable[[Path], object]:
    """A valid model file with other content."""

    def damage(run: Path) -> None:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        path = run / "model.safetensors"
        with safe_open(path, framework="numpy") as file:
            about = dict(file.metadata())
        tensors = load_file(path)
        change(tensors, about)
        save_file(tensors, path, metadata=about)

    return damage


def png_bytes() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels(1, 3).repeat(8, axis=1).repeat(8, axis=2)[0]).save(file, "PNG")
    return file.getvalue()


# --- the table --------------------------------------------------------------------------------

# With and without a batch size: the message must not depend on it.
SHORT = ["train", "--workers", "0", "--steps", "2", "--hidden", "3"]
QUICK = ["train", "--workers", "0", "--steps", "3", "--hidden", "3", "--batch-size", "5"]
ON_NPZ = [*QUICK, "--data", "d.npz"]
ON_IDX = [*QUICK, "--data", "idx"]
WITH_TOML = [*QUICK, "--config", "c.toml"]


def toml(text: str | bytes) -> Prepare:
    return write("c.toml", text)


def command_lines() -> Iterator[Case]:
    yield Case("nothing", [], ["COMMAND", "--help"])
    yield Case("a command misspelt", ["trian"], ["trian", "train"])
    yield Case("an option misspelt", ["train", "--learning-rat", "1"], ["--learning-rat"])
    yield Case("an option without its value", ["train", "--steps"], ["--steps"])
    yield Case("an option cut short", ["train", "--learn", "1"], ["--learn", "--help"])
    yield Case("a negative number as a value", ["train", "--h", "-1e-4"], ["--h", "expected one argument"])
    yield Case("a value for a switch", ["train", "--json=1"], ["--json", "'1'"])
    yield Case("an argument too many", ["evaluate", "a", "b"], ["unrecognized arguments: b"])
    yield Case("an option of another command", ["resume", "run", "--seed", "3"], ["--seed"])
    yield Case("resume without a folder", ["resume"], ["DIR"])
    yield Case("predict without a file", ["predict", "done"], ["FILE"])
    yield Case("no steps", ["train", "--steps", "0"], ["steps is '0'", "at least 1"])
    yield Case("a negative number of steps", ["train", "--steps", "-5"], ["steps is '-5'", "at least 1"])
    yield Case("a fraction of a step", ["train", "--steps", "1.5"], ["steps is '1.5'", "whole number"])
    yield Case("a decimal integer only", ["train", "--steps", "0x10"], ["steps is '0x10'", "whole number"])
    yield Case("a layer that is a letter", ["train", "--hidden", "50,x"], ["hidden is '50,x'", "separated by commas"])
    yield Case("a layer without units", ["train", "--hidden", "0"], ["hidden is '0'", "at least 1"])
    yield Case("a function as activation", [*QUICK, "--activation", "custom:f"], ["activation is 'custom:f'", "Python"])
    yield Case("digits in groups", ["train", "--steps", "1_0"], ["steps is '1_0'", "whole number"])
    yield Case("a blank before a number", ["train", "--seed", " 3"], ["seed is ' 3'", "whole number"])
    yield Case("digits of a real number in groups", ["train", "--h", "1_0.5"], ["h is '1_0.5'", "finite number"])
    yield Case("no exponents in sizes", ["train", "--hidden", "1e3"], ["hidden is '1e3'"])
    yield Case("a layer too large", ["train", "--hidden", "1000001"], ["hidden is '1000001'", "at most 1,000,000"])
    yield Case("too many parameters", ["train", "--hidden", "1000000,1000000"], ["hidden is 1000000,1000000", "GiB"])
    yield Case("too many digits", ["train", "--steps", DIGITS], ["steps is '999", "...", "whole number"])
    yield Case("a seed below 0", ["train", "--seed", "-1"], ["seed is '-1'", "at least 0"])
    yield Case("a seed too large", ["train", "--seed", str(2**63)], [f"seed is '{2**63}'", "at most 9,223"])
    yield Case(
        "a rate of NaN", ["train", "--learning-rate", "nan"], ["learning_rate is 'nan'", "finite number above 0"]
    )
    yield Case("a rate of 0", ["train", "--learning-rate", "0"], ["learning_rate is '0'", "above 0"])
    yield Case("an infinite rate", ["train", "--learning-rate", "inf"], ["learning_rate is 'inf'", "finite"])
    yield Case("a rate that vanishes", ["train", "--learning-rate", "1e-400"], ["learning_rate is '1e-400'", "above 0"])
    yield Case("a step below 0", ["train", "--h=-1e-4"], ["h is '-1e-4'", "'auto' or a finite number above 0"])
    yield Case("a step in words", ["train", "--h", "small"], ["h is 'small'", "'auto'"])
    yield Case("all weights 0", ["train", "--init-std", "0"], ["init_std is '0'", "above 0"])
    yield Case("too much momentum", ["train", "--momentum", "2"], ["momentum is '2'", "at most 1"])
    yield Case("an unknown activation", ["train", "--activation", "rely"], ["activation is 'rely'", "relu"])
    yield Case("one level", ["train", "--activation", "quantize:1"], ["activation is 'quantize:1'", "from 2"])
    yield Case("infinitely many levels", ["train", "--activation", "quantize:inf"], ["quantize:inf", "from 2 to"])
    yield Case("a steep leaky_relu", ["train", "--activation", "leaky_relu:2"], ["leaky_relu:2", "between 0 and 1"])
    yield Case(
        "an unknown loss", ["train", "--loss", "hinge"], ["loss is 'hinge'", "cross_entropy, mean_squared_error"]
    )
    yield Case(
        "an unknown optimizer",
        ["train", "--optimizer", "lion"],
        ["optimizer is 'lion'", "sgd, momentum, nesterov, adam"],
    )
    yield Case("an unknown scheme", ["train", "--scheme", "middle"], ["scheme is 'middle'", "central4"])
    yield Case("an unknown method", ["train", "--method", "magic"], ["method is 'magic'", "propagate, naive"])
    yield Case("an unknown dtype", ["train", "--dtype", "float16"], ["dtype is 'float16'", "float64, float32"])
    yield Case("an empty batch", ["train", "--batch-size", "0"], ["batch_size is '0'", "at least 1"])
    yield Case("a batch larger than the data", [*SHORT, "--batch-size", "9000"], ["batch_size is 9,000", "8,000"])
    yield Case("a huge batch", [*QUICK, "--batch-size", "9" * 25], ["batch_size is 9,999,", "8,000"])
    yield Case("data that is missing", ["train", "--data", "missing"], ["data is 'missing'", "not found", "mnist-10k"])
    yield Case("data without a name", ["train", "--data", ""], ["data is ''", "not empty"])
    yield Case("a data name too long", [*QUICK, "--data", "a" * 5000], ["data is 'aaa", "too long"])
    yield Case("an unknown home folder", [*QUICK, "--data", "~no-such-user/x"], ["data is '~no-such-user/x'", "home"])
    yield Case("a line break in a name", [*QUICK, "--data", "a\nb"], [r"data is 'a\nb'", "not found"])
    yield Case("data that is a device", [*QUICK, "--data", "/dev/null"], ["data is '/dev/null'", "neither"])
    yield Case("resume: no such run", ["resume", "missing"], ["run 'missing'", "not found"])
    yield Case("resume: an empty folder", ["resume", "empty"], ["run 'empty'", "no config.toml"])
    yield Case("resume: a file", ["resume", "file"], ["run 'file'", "not a folder"])
    yield Case("evaluate: no such run", ["evaluate", "missing"], ["run 'missing'", "not found"])
    yield Case("a run with a line break", ["evaluate", "a\nb"], [r"run 'a\nb'", "not found"])
    yield Case("a run name too long", ["evaluate", "a" * 5000], ["run 'aaa"])


def workers() -> Iterator[Case]:
    yield Case(
        "a negative number of workers",
        ["train", "--workers", "-2"],
        ["workers is '-2'", "'auto' or a whole number of at least 0"],
    )
    yield Case("workers in words", ["train", "--workers", "many"], ["workers is 'many'", "'auto'"])
    yield Case("auto in upper case", ["train", "--workers", "Auto"], ["workers is 'Auto'", "'auto' or"])
    yield Case(
        "more workers than fit the memory",
        [*SHORT, "--workers", "100000"],
        ["workers is 100,000", "free memory has room for about"],
        header=True,
    )
    yield Case("no threads", ["train", "--threads-per-worker", "0"], ["threads_per_worker is '0'", "at least 1"])
    yield Case("an empty address", ["train", "--address", ""], ["address is ''", "HOST:PORT"])
    for address, words, header in (
        ("nowhere", ["HOST:PORT"], False),
        ("127.0.0.1:99999", ["HOST:PORT"], False),
        ("127.0.0.1:1", ["refused", "HOST:PORT"], True),
    ):
        yield Case(
            f"the address {address}",
            ["train", "--address", address],
            [f"address is '{address}'", *words],
            header=header,
        )
    for start, batches in ((SHORT, "default batches"), (QUICK, "small batches")):
        yield Case(
            f"an address without Ray, {batches}",
            [*start, "--address", "h:1"],
            ["address is 'h:1'", "workers is 0"],
            header=True,
        )
        yield Case(
            f"threads for whole losses, {batches}",
            [*start, "--method", "naive", "--threads-per-worker", "2"],
            ["threads_per_worker is 2", "more workers"],
            header=True,
        )


def config_files() -> Iterator[Case]:
    def case(name: str, text: str | bytes, *words: str) -> Case:
        return Case(f"config: {name}", WITH_TOML, ["c.toml", *words], toml(text))

    def plain(file: str, text: str, *words: str) -> Case:
        return Case(f"config: {file}", ["train", "--config", file], [file, *words], write(file, text))

    yield Case("config: missing", ["train", "--config", "missing.toml"], ["config is 'missing.toml'", "not found"])
    yield plain("bad.toml", "steps = = 3", "config is 'bad.toml'", "not valid TOML")
    yield plain("type.toml", 'steps = "many"', "steps is 'many'", "whole number")
    yield plain("unknown.toml", "learning_rat = 1", "'learning_rat'", "'learning_rate'")
    yield plain("table.toml", "[steps]\nn = 3", "steps is {'n': 3}")
    yield Case("config: a folder", [*QUICK, "--config", "."], ["config is '.'", "Is a directory"])
    yield Case("config: below a file", [*QUICK, "--config", "c/t"], ["'c/t'", "Not a directory"], write("c", ""))
    yield case("not UTF-8", b'data = "\xff"', "not valid TOML")
    yield case("a field twice", "seed = 3\nseed = 4", "not valid TOML")
    yield case("nested too deeply", "a = " + "[" * 100_000, "not valid TOML")
    yield case("sections", "[train]\nseed = 3", "'train' is not a field")
    yield case("a field of a Python run", 'objective = "python"', "'objective' is not a field")
    yield case("a truth value", "seed = true", "seed is True", "whole number")
    yield case("NaN", "h = nan", "h is nan", "'auto' or a finite number above 0")
    yield case("infinity", "learning_rate = inf", "learning_rate is inf", "finite")
    yield case("a date", "seed = 1979-05-27", "seed is datetime.date", "whole number")
    yield case("a list", "h = [1]", "h is [1]")
    yield case("a half", "seed = 3.5", "seed is 3.5", "whole number")
    yield case("layers of half units", "hidden = [1.5]", "hidden is [1.5]")
    yield case("layers of truth values", "hidden = [true]", "hidden is [True]")
    yield case("a table of layers", "hidden = {a = 1}", "hidden is {'a': 1}")
    yield case("a list of losses", 'loss = ["cross_entropy"]', "loss is ['cross_entropy']", "mean_squared_error")
    yield case("data that is a number", "data = 3", "data is 3", "a text")
    yield case("an empty address", 'address = ""', "address is ''")
    yield case("a number of 6000 digits", f"seed = {DIGITS}")


def data_files() -> Iterator[Case]:
    def case(name: str, prepare: Prepare, *words: str) -> Case:
        return Case(f"npz: {name}", ON_NPZ, ["d.npz", *words], prepare)

    nan, inf = np.full((20, 4, 4), np.nan), np.full((6, 4, 4), np.inf)
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 16), }"
    code = "{'descr': __import__('os').mkdir('x'), 'fortran_order': False, 'shape': (3,), }"
    good = npz_bytes()
    yield case("empty", write("d.npz", b""), "cannot be read")
    yield case("no archive", write("d.npz", b"hello" * 50), "cannot be read")
    yield case("cut short", write("d.npz", good[:1000]), "cannot be read")
    yield case("a byte changed", write("d.npz", changed(good, (200, good[200] ^ 1))), "CRC")
    yield case("one array", write("d.npz", npy_bytes(np.zeros(3))), "one array")
    yield case("pickled", npz(x_train=np.array([None] * 20)), "cannot be read")
    yield case("another archive", write("d.npz", in_every_header(good, 6, 8, 1)), "encrypted")
    yield case("unknown compression", write("d.npz", in_every_header(good, 8, 10, 99)), "compression")
    yield case("a header of petabytes", with_member(npy_header(huge) + bytes(80)), "cannot be read")
    yield case("code in a header", with_member(npy_header(code) + bytes(80)), "cannot be read")
    yield case("parentheses in a header", with_member(npy_header("(" * 9000)), "cannot be read")
    yield case("NaN", npz(x_train=nan), "x_train", "not finite", "row 0")
    yield case("infinity", npz(x_test=inf), "x_test", "not finite")
    yield case("one number an example", npz(x_train=np.zeros(20)), "x_train has shape (20,)")
    yield case("no examples", npz(x_train=np.zeros((0, 4))), "x_train has shape (0, 4)")
    yield case("no inputs", npz(x_train=np.zeros((20, 0))), "x_train has shape (20, 0)")
    yield case("complex numbers", npz(x_train=np.zeros((20, 4, 4), complex)), "complex128", "real numbers")
    yield case("texts", npz(x_train=np.full((20, 4), "a")), "x_train has dtype <U1")
    yield case("two shapes", npz(x_test=np.zeros((6, 5, 4))), "(4, 4)", "(5, 4)")
    yield case("half labels", npz(y_train=np.arange(20) + 0.5), "y_train", "whole numbers")
    yield case("NaN labels", npz(y_train=np.full(20, np.nan)), "y_train", "whole numbers")
    yield case("labels too large", npz(y_test=np.full(6, 70_000)), "label 70000", "65535")
    yield case("labels far too large", npz(y_test=np.full(6, 1e300)), "label 1e+300", "65535")
    yield case("cubes of targets", npz(y_train=np.zeros((20, 2, 2))), "y_train has shape (20, 2, 2)")
    yield case("targets and labels", npz(y_test=np.zeros((6, 3))), "y_train", "y_test")
    yield case(
        "targets for cross_entropy", npz(y_train=np.zeros((20, 2)), y_test=np.zeros((6, 2))), "mean_squared_error"
    )
    yield Case(
        "npz: numbers beyond float32",
        [*ON_NPZ, "--dtype", "float32"],
        ["d.npz", "float32"],
        npz(x_train=np.full((20, 4, 4), 1e300)),
    )

    def small_case(file: str, arrays: dict[str, Any], *words: str) -> Case:
        return Case(f"npz: {file}", ["train", "--data", file], list(words), write(file, archive_bytes(arrays)))

    x, y = SMALL["x_train"], SMALL["y_train"]
    yield small_case("partial.npz", {"x_train": x, "y_train": np.zeros(3, int)}, "x_test, y_test", "partial.npz")
    yield small_case("nan.npz", SMALL | {"x_train": x + np.nan}, "x_train", "not finite", "row 0")
    yield small_case("lengths.npz", SMALL | {"y_train": y[:2]}, "x_train has 3 rows", "y_train has 2")
    yield small_case("labels.npz", SMALL | {"y_train": y - 5}, "y_train holds the label -5", "from 0")
    yield Case("npz: a text", ["train", "--data", "file"], ["file cannot be read as an .npz"])
    yield Case("idx: an empty folder", ["train", "--data", "empty"], ["train-images-idx3-ubyte", "four files"])

    def idx_case(name: str, labels: bytes | None, *words: str, ending: str = "", **others: bytes) -> Case:
        return Case(f"idx: {name}", ON_IDX, list(words), idx(labels, ending, **others))

    ok = IDX[LABELS]
    yield idx_case("a file missing", None, LABELS, "four files")
    yield idx_case("an empty file", b"", LABELS, "not an IDX file")
    yield idx_case("another file", b"hello", LABELS, "not an IDX file")
    yield idx_case("three axes of labels", idx_bytes(8, (1, 1, 1), b"x"), LABELS, "3 axes", "must have 1")
    yield idx_case("cut in its header", ok[:6], LABELS, "within its header")
    yield idx_case("cut short", ok[:-1], LABELS, "(20,)", "20 bytes", "holds 19")
    yield idx_case("bytes left over", ok + b"x", LABELS, "20 bytes", "holds more")
    yield idx_case("a header of gigabytes", idx_bytes(8, (2**32 - 1,), b"x"), LABELS, "4,294,967,295")
    yield idx_case("negative labels", idx_bytes(9, (20,), b"\xff" * 20), "label -1")
    yield idx_case("labels for fewer", idx_bytes(8, (2,), b"\0\1"), "x_train has 20 rows", "y_train has 2")
    yield idx_case("not gzipped", ok, LABELS, "cannot be read", ending=".gz")
    yield idx_case("gzip cut short", gzip.compress(ok)[:-9], LABELS, "cannot be read", ending=".gz")
    yield idx_case(
        "two sizes of pictures", ok, "(4, 4)", "(2, 2)", t10k_images_idx3_ubyte=idx_bytes(8, (6, 2, 2), bytes(24))
    )


def folders_for_a_run() -> Iterator[Case]:
    def case(name: str, out: str, *words: str, prepare: Prepare | None = None) -> Case:
        return Case(f"out: {name}", [*QUICK, "--out", out], ["out is", *words], prepare)

    def link(place: Path, kept: Path) -> None:
        (place / "link").symlink_to("nowhere")

    yield case("a name too long", "a" * 300, "no run can be kept", "too long")
    yield case("below a file", "file/a/b", "'file/a/b'", "Not a directory")
    yield case("a link to nowhere", "link", "'link'", prepare=link)
    yield case("a full folder with a line break", "a\nb", r"'a\nb'", prepare=write("a\nb/mine", "mine"))
    yield case("a new folder, and below a file", "new/../file/x", "no run can be kept")

    def short(name: str, out: str, *words: str) -> Case:
        return Case(f"out: {name}", [*SHORT, "--out", out], [f"out is '{out}'", *words])

    yield short("a full folder", "full", "not an empty folder")
    yield short("another run", "done", "distnum resume done")
    yield short("a file", "file", "not an empty folder")
    yield short("just below a file", "file/run", "no run can be kept")
    yield short("without a name", "")


def runs() -> Iterator[Case]:
    resume = ["resume", "run", "--quiet"]

    def edited(old: str, new: str, *words: str) -> Case:
        return Case(f"resume: {new}", resume, list(words), run_with("half", in_config(old, new)))

    yield edited("seed = 0", "seed = 1", "seed is 1", "trained with 0", "step 4")
    yield edited("learning_rate = 0.1", "learning_rate = 0.2", "learning_rate is 0.2", "0.1")
    yield edited('"relu"', '"tanh"', "activation is 'tanh'", "'relu'")
    yield edited('"sgd"', '"adam"', "optimizer is 'adam'", "'sgd'")
    yield edited('"float64"', '"float32"', "dtype is 'float32'", "'float64'")
    yield edited("    3,", "    4,", "hidden is [4]", "trained with [3]", "must stay the same")
    yield edited("seed = 0", "clip_norm = 5.0", "clip_norm is 5.0", "None")
    yield edited('"constant"', '"cosine"', "schedule is 'cosine'")
    yield edited("seed = 0", 'seed = "x"', "config.toml", "seed is 'x'", "whole number")
    yield edited("seed = 0", "sead = 0", "config.toml", "'sead'", "'seed'")
    yield edited("seed = 0", 'objective = "python"', "Python function")
    yield edited("seed = 0", "seed = = 0", "config.toml", "not valid TOML")

    def case(
        name: str,
        arguments: Iterable[str],
        damage: Callable[[Path], object] | None,
        *words: str,
        of: str = "half",
    ) -> Case:
        return Case(name, list(arguments), list(words), run_with(of, damage))

    yield case(
        "resume: data removed", resume, lambda run: in_config("tiny.npz", "gone.npz")(run), "gone.npz", "not found"
    )
    yield case("resume: every checkpoint damaged", resume, cut_all_checkpoints, "no valid checkpoint", "cut short")
    yield case("resume: its lock is a folder", resume, a_folder_instead(".lock"), "run 'run'", "cannot be written")
    yield case("resume: steps that are no number", [*resume, "--steps", "x"], None, "steps is 'x'", "whole number")
    yield case(
        "resume: fewer steps than are done",
        [*resume, "--steps", "2"],
        None,
        "steps is 2",
    )
    yield case(
        "resume: a bad value for a complete run",
        ["resume", "run", "--workers", "x"],
        None,
        "workers is 'x'",
        of="done",
    )
    yield case(
        "resume: checkpoints removed",
        resume,
        lambda run: shutil.rmtree(run / "checkpoints"),
        "checkpoints",
    )
    yield case(
        "resume: its rows are a folder",
        resume,
        a_folder_instead("metrics.jsonl"),
        "metrics.jsonl",
    )

    yield Case(
        "resume: every file damaged",
        ["resume", "broken"],
        ["step-00000004.safetensors", "cut short"],
        broken_run,
        leaves=("broken/.lock",),
    )

    evaluate = ["evaluate", "run"]
    model = "model.safetensors"
    yield case("evaluate: not finished", evaluate, None, "no trained model", "distnum resume run")
    yield case("evaluate: model empty", evaluate, put(model, b""), model, "cannot be read", of="done")
    yield case("evaluate: model cut short", evaluate, cut(model, -1), model, "cannot be read", of="done")
    yield case("evaluate: a bit of the model changed", evaluate, flip_last_byte(model), "damaged", of="done")

    yield Case("evaluate: every file damaged", ["evaluate", "broken"], [model, "cannot be read"], broken_run)

    def model_case(name: str, change: Callable[[dict[str, Any], dict[str, str]], object], *words: str) -> Case:
        return case(f"evaluate: {name}", evaluate, another_model(change), *words, of="done")

    yield model_case("weights missing", lambda tensors, about: tensors.pop("W2"), "W2", "missing")
    yield model_case("weights of another shape", lambda t, about: t.update(W2=np.zeros((2, 2))), "W2", "(2, 2)")
    yield model_case("weights that are NaN", lambda t, about: t.update(b1=np.full(3, np.nan)), "damaged")
    yield model_case("sizes that are no numbers", lambda t, about: about.update(sizes="a,b"), model, "cannot be read")
    yield model_case("a loss unknown", lambda t, about: about.update(loss="hinge"), "loss is 'hinge'")
    yield model_case("examples of another shape", lambda t, about: about.update(example_shape="2,2"), "(2, 2)")
    yield model_case("examples of a negative shape", lambda t, about: about.update(example_shape="-4,-4"), "(-4, -4)")
    yield model_case("pixels neither true nor false", lambda t, about: about.update(pixels="maybe"), "'maybe'")
    yield model_case("no checksum", lambda t, about: about.pop("params_sha256"), model, "names no 'params_sha256'")
    yield model_case("another format", lambda t, about: about.update(format="x"), model, "not a network of distnum")

    def data_case(name: str, prepare: Prepare, *words: str) -> Case:
        arguments = [*evaluate, "--data", "d.npz"]
        return Case(f"evaluate: {name}", arguments, list(words), both(run_with("done"), prepare))

    fewer = npz(x_train=np.zeros((20, 5)), x_test=np.zeros((6, 5)))
    yield data_case("data of other inputs", fewer, "d.npz", "5 inputs", "takes 16")
    yield data_case("labels it does not know", npz(y_test=np.full(6, 7)), "label 7", "below 3")
    yield data_case("damaged data", write("d.npz", npz_bytes()[:500]), "d.npz", "cannot be read")
    yield data_case(
        "targets for labels",
        npz(y_train=np.full((20, 3), 0.5), y_test=np.full((6, 3), 0.5)),
        "d.npz",
        "cross_entropy",
    )
    yield case(
        "evaluate: no data named",
        [*evaluate, "--data", ""],
        None,
        "data is ''",
        of="done",
    )

    yield Case(
        "evaluate: data of other inputs than the digits",
        ["evaluate", "done", "--data", "small.npz"],
        ["4 inputs", "784"],
        write("small.npz", archive_bytes(SMALL)),
    )

    def predict_case(name: str, file: str, prepare: Prepare | None, *words: str) -> Case:
        prepared = both(run_with("done"), *([prepare] if prepare is not None else []))
        return Case(f"predict: {name}", ["predict", "run", file], list(words), prepared)

    png = png_bytes()
    yield predict_case("no picture", "p.png", write("p.png", b"hello"), "p.png", "cannot be read as a picture")
    yield predict_case("an empty picture", "p.png", write("p.png", b""), "p.png", "cannot be read as a picture")
    yield predict_case("a picture cut short", "p.png", write("p.png", png[:-300]), "p.png", "cannot be read")
    yield predict_case("a script", "p.eps", write("p.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"), "p.eps", "must be a PNG")
    yield predict_case("a huge picture", "p.ppm", write("p.ppm", b"P6 99999 99999 255\n"), "p.ppm", "pixels")
    yield predict_case("no array", "a.npy", write("a.npy", b"hello" * 50), "a.npy", "cannot be read")
    yield predict_case("objects", "a.npy", npy(np.array([None] * 16)), "a.npy", "cannot be read")
    yield predict_case("an archive", "a.npy", write("a.npy", npz_bytes()), "a.npy", "one array")
    yield predict_case("an array cut short", "a.npy", write("a.npy", npy_bytes(np.zeros(16))[:-9]), "a.npy")
    yield predict_case("an array of texts", "a.npy", npy(np.full(16, "a")), "a.npy", "real numbers")
    yield predict_case("NaN", "a.npy", npy(np.full(16, np.nan)), "a.npy", "not finite")
    yield predict_case("another shape", "a.npy", npy(np.zeros((16, 1))), "(16, 1)", "(4, 4) or (n, 16)")
    yield predict_case("nothing", "a.npy", npy(np.zeros((0, 16))), "(0, 16)")
    yield predict_case("a name too long", "a" * 5000, None, "'aaa")
    yield Case(
        "predict: the second file is missing",
        ["predict", "run", "a.npy", "missing.npy"],
        ["'missing.npy'", "not found"],
        both(run_with("done"), npy(np.zeros(16))),
    )

    yield Case("predict: no such file", ["predict", "done", "missing.png"], ["file is 'missing.png'", "not found"])
    yield Case("predict: a text", ["predict", "done", "file"], ["file cannot be read as a picture"])
    yield Case("predict: a folder", ["predict", "done", "empty"], ["file is 'empty'", "not a file"])
    yield Case(
        "predict: another shape than the digits",
        ["predict", "done", "shape.npy"],
        ["shape.npy has shape (2, 5)", "(n, 784)"],
        write("shape.npy", npy_bytes(np.zeros((2, 5)))),
    )

    plot = ["plot", "run"]
    rows = "metrics.jsonl"
    yield case("plot: no rows", plot, put(rows, ""), "no steps to plot", of="done")
    yield case("plot: a damaged line", plot, put(rows, b"[1]\n"), rows, "a line 1 that is not a row", of="done")
    yield case("plot: rows that are noise", plot, put(rows, b"\xff\0\x80" * 99), "no steps to plot", of="done")
    yield case("plot: into a file", [*plot, "--out", "run/result.json"], None, "'run/result.json'", of="done")
    yield Case(
        "plot: over a folder",
        plot,
        ["loss.png", "Is a directory"],
        run_with("done", a_folder_instead("loss.png")),
        draws=True,
    )
    yield case("plot: into no folder", [*plot, "--out", ""], None, "out is ''", of="done")
    for name, row in (
        ("rows without a loss", {"step": 1}),
        ("a loss that is text", {"step": 1, "loss": "x"}),
        ("an accuracy that is text", {"step": 1, "loss": 1.0, "test_accuracy": "x"}),
    ):
        yield case(f"plot: {name}", plot, put(rows, json.dumps(row) + "\n"), rows, of="done")
    yield case("plot: its rows are a folder", plot, a_folder_instead(rows), rows, of="done")
    yield case(
        "plot: model damaged",
        plot,
        cut(model, 50),
        model,
        of="done",
    )
    yield Case("plot: every file damaged", ["plot", "broken"], [model, "cannot be read"], broken_run)
    yield Case(
        "plot: into a missing folder", ["plot", "done", "--out", "missing"], ["out is 'missing'", "not a folder"]
    )


CASES = [*command_lines(), *workers(), *config_files(), *data_files(), *folders_for_a_run(), *runs()]


# --- the tests --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a complete run, a run stopped after step 4 of 8, and a run on the digits."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "tiny.npz").write_bytes(npz_bytes())
    options: dict[str, Any] = {"data": str(folder / "tiny.npz"), "hidden": 3, "batch_size": 5, "workers": 0}
    distnum.train(out=folder / "done", steps=3, **options)
    distnum.train(out=folder / "half", steps=8, checkpoint_every=2, on_step=lambda step, _: step.step == 4, **options)
    assert main([*SHORT, "--quiet", "--out", str(folder / "digits")]) == 0
    return folder


@pytest.fixture
def place(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files and folders that commands must refuse; ``done`` is the run on the digits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "ray" in sys.modules:  # Other tests may have left a session running, which commands would use.
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    (tmp_path / "done").symlink_to(kept / "digits")
    (tmp_path / "file").write_text("no data here")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    return tmp_path


def tree(folder: Path) -> dict[str, bytes | str]:
    """Content of all files below a folder, and targets of links, by path."""
    entries: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        kind = f"link to {path.readlink()}" if path.is_symlink() else "folder" if path.is_dir() else "file"
        entries[str(path.relative_to(folder))] = path.read_bytes() if kind == "file" else kind
    return entries


def check(case: Case, kept: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the exit code, that one line has the words, and that no file changed, also in the linked runs."""
    before = tree(place), tree(kept)
    code = main(case.arguments)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    *above, message = err.splitlines()
    assert message.startswith("distnum: "), err
    assert not [line for line in above if line.startswith("distnum: ")], err
    assert case.header or not above, err
    for word in case.words:
        assert word in message
    after = tree(place), tree(kept)
    for name in case.leaves:
        after[0].pop(name, None)
    assert after == before


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_input_gets_one_line_and_changes_nothing(
    case: Case, kept: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.draws:
        pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    if case.prepare is not None:
        case.prepare(place, kept)
    check(case, kept, place, capsys)


def test_a_run_in_use_is_refused(kept: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fcntl", reason="runs are locked on POSIX systems only")
    run_with("half")(place, kept)
    other = RunFolder.open(place / "run")
    try:
        check(Case("in use", ["resume", "run"], ["run 'run'", "in use"]), kept, place, capsys)
    finally:
        other.close()


def test_a_diverging_run_fails_with_one_line_and_keeps_its_rows(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, "--steps", "50", "--learning-rate", "1e200", "--out", "run"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("distnum: The ")
    assert "smaller learning rate than 1e+200" in message
    assert json.loads((place / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
