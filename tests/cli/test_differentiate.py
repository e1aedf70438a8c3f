"""``distnum differentiate``: what a study may say, what is printed and written, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distnum.cli.commands import COMMANDS
from distnum.cli.main import main
from distnum.cli.options import parsed
from distnum.cli.submit.command import submitted_command
from distnum.cli.submit.studies import submitted_study
from distnum.cli.submit.transfer import on_head

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "study"

MODEL = """
import os
import numpy as np
import study_helper

def quadratic(x):
    return study_helper.factor * x["a"] ** 2 + float(x["b"] @ x["b"])

def outer(x, scale=1.0):
    return {"outer": scale * np.outer(x, x), "sum": float(x.sum())}

def corner(x):
    return abs(x[0]) + x[1] ** 2

def limited(x):
    if x[1] > 2.0:
        raise ValueError("x[1] is above its limit")
    return float(x @ x)

def fatal(x):
    if x[1] > 2.0:
        os._exit(3)
    return float(x @ x)

def loud(x):
    print("I print")
    return float(x @ x)

def text(x):
    return "hello"

def rotated(x):
    return x * 1j

number = 3.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of functions, ``study_model``, in another folder than the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("study_model", "study_helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "study_model.py").write_text(MODEL)
    (studies / "study_helper.py").write_text("factor = 3.0\n")
    return studies


def study(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text(text)
    return str(path)


QUADRATIC = 'function = "study_model:quadratic"\n[x]\na = 2.0\nb = [1, 5]\n'


def test_the_derivative_is_written_in_three_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["differentiate", study(folder, QUADRATIC), "--out", "out"]) == 0
    printed = capsys.readouterr()
    assert "distnum: study_model:quadratic by 3 coordinates: a, b[0], b[1]; central, order 2\n" in printed.err
    assert "7 evaluations" in printed.err
    assert "All entries are settled." in printed.out
    assert "kept in   out: derivative.npz, .json, .csv" in printed.out
    result = json.loads(Path("out/derivative.json").read_text())
    assert result["function"] == "study_model:quadratic"
    assert result["value"] == 38.0
    assert result["derivative"]["a"] == pytest.approx(12.0)
    assert result["derivative"]["b"] == pytest.approx([2.0, 10.0])
    assert result["status"] == {"a": "OK", "b": ["OK", "OK"]}
    assert result["x"] == {"a": 2.0, "b": [1, 5]}
    assert result["counts"] == {"OK": 3}
    assert result["evaluations"] == {"made": 7, "from_store": 0, "retries": 0}
    assert result["failures"] == []
    assert result["versions"]["numpy"] == np.__version__
    with open("out/derivative.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["coordinate"] for row in rows] == ["a", "b[0]", "b[1]"]
    assert [row["status"] for row in rows] == ["OK"] * 3
    with np.load("out/derivative.npz") as arrays:
        assert arrays["derivative"].shape == (1, 3)
        assert arrays["coordinates"].tolist() == ["a", "b[0]", "b[1]"]
        # All three have the same bits.
        assert arrays["derivative"][0].tolist() == [float(row["derivative"]) for row in rows]
        assert arrays["derivative"][0, 0] == result["derivative"]["a"]
        assert arrays["error"][0].tolist() == [float(row["error"]) for row in rows]


def test_outputs_by_name_and_options_of_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = study(folder, 'function = "study_model:outer"\nx = [1.0, 2.0]\norder = 2\nkwargs = {scale = 2.0}\n')
    assert main(["differentiate", name, "--out", "out", "--order", "4", "--indices", "x[1]"]) == 0
    assert "order 4" in capsys.readouterr().err
    result = json.loads(Path("out/derivative.json").read_text())
    assert np.shape(result["derivative"]["outer"]) == (2, 2, 2)
    assert result["derivative"]["outer"][1][1][1] == pytest.approx(8.0)
    assert result["derivative"]["sum"] == [None, pytest.approx(1.0)]
    assert result["counts"] == {"OK": 5}
    with open("out/derivative.csv", newline="") as file:  # rows for the coordinate that was asked for
        rows = list(csv.DictReader(file))
    assert [row["output"] for row in rows] == [f"fun['outer'][{i}, {j}]" for i in (0, 1) for j in (0, 1)] + [
        "fun['sum']"
    ]
    assert main(["differentiate", name, "--out", "out", "--indices", "0"]) == 0


def test_a_sparsity_pattern(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "study_model.py").write_text("def f(x):\n    return x**2 + 0 * abs(x[::-1])[::-1]\n")
    np.save(folder / "pattern.npy", np.eye(40))
    np.save(folder / "start.npy", np.linspace(1, 2, 40))
    name = study(folder, 'function = "study_model:f"\nx = "start.npy"\nsparsity = "pattern.npy"\n')
    assert main(["differentiate", name, "--out", "out"]) == 0
    assert "... 20 more in derivative.csv" in capsys.readouterr().out
    entries = json.loads(Path("out/derivative.json").read_text())["entries"]
    assert [(entry["output"], entry["coordinate"]) for entry in entries] == [
        (f"fun[{k}]", f"x[{k}]") for k in range(40)
    ]
    assert [entry["derivative"] for entry in entries] == pytest.approx((2 * np.linspace(1, 2, 40)).tolist())
    with np.load("out/derivative.npz") as arrays:
        assert arrays["rows"].tolist() == arrays["columns"].tolist() == list(range(40))
        assert arrays["status_names"][arrays["status"]].tolist() == ["OK"] * 40


def test_complex_values(folder: Path) -> None:
    name = study(folder, 'function = "study_model:rotated"\nx = [1.0, 2.0]\n')
    assert main(["differentiate", name, "--out", "out", "--quiet"]) == 0
    derivative = json.loads(Path("out/derivative.json").read_text())["derivative"]
    assert derivative[0][0] == [0.0, pytest.approx(1.0)]
    with np.load("out/derivative.npz") as arrays:
        assert arrays["derivative"].dtype == complex


def test_an_unsettled_entry_comes_first_and_is_no_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["differentiate", study(folder, 'function = "study_model:corner"\nx = [0.0, 1.0]\n')]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[0] == "x[0]"
    assert lines[3].endswith("KINK")
    (written,) = Path("derivatives").glob("*/derivative.json")
    result = json.loads(written.read_text())
    assert result["slopes"] == [
        {"output": "fun", "coordinate": "x[0]", "left": pytest.approx(-1), "right": pytest.approx(1)}
    ]


@pytest.mark.parametrize("long", [False, True])
def test_what_is_printed_fits_into_80_columns(long: bool, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a_parameter_with_a_name_that_is_longer_than_half_of_the_line" if long else "p"
    (folder / "study_model.py").write_text(
        f"def f(x):\n    return {{'{name}': x['{name}']['deep'] * 1e-7, 'k': abs(x['{name}']['deep'][0])}}\n"
    )
    values = ", ".join(f"{-1.5e-300 * k!r}" for k in range(30))
    main(["differentiate", study(folder, f'function = "study_model:f"\n[x.{name}]\ndeep = [{values}]\n')])
    printed = capsys.readouterr()
    assert max(map(len, (printed.out + printed.err).splitlines())) <= 80
    assert "more in derivative.csv" in printed.out
    assert "deep[0]" in printed.out  # the end of the name, by which it is known


def test_json_is_the_only_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = study(folder, 'function = "study_model:loud"\nx = 2.0\n'.replace("2.0", "[2.0]"))
    assert main(["differentiate", name, "--out", "out", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["folder"] == "out"
    assert "I print" in printed.err  # what the function prints is no result
    assert main(["differentiate", name, "--out", "out", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["differentiate", name, "--estimate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"] == 3
    assert not Path("derivatives").exists()


def test_an_exception_of_the_function_is_shown_with_its_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = study(folder, 'function = "study_model:limited"\nx = [1.0, 2.0]\n')
    assert main(["differentiate", name, "--out", "out"]) == 1
    lines = capsys.readouterr().err.splitlines()[-4:]
    assert lines[0].startswith("distnum: the function failed where x[1] is moved by +1.2")
    assert lines[1] == "  ValueError: x[1] is above its limit."
    assert lines[2].startswith(f'  File "{folder / "study_model.py"}", line ')
    assert "raise ValueError" in lines[3]
    assert not list(Path("out").iterdir())


def test_failures_that_are_survived(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = study(folder, 'function = "study_model:limited"\nx = [1.0, 2.0]\n')
    assert main(["differentiate", name, "--out", "out", "--on-error", "nan"]) == 1
    printed = capsys.readouterr().out
    assert "failed where x[1] is moved by +1.2" in printed
    result = json.loads(Path("out/derivative.json").read_text())
    assert result["status"] == ["OK", "FAILED"]
    assert result["derivative"] == [pytest.approx(2.0), None]
    assert result["failures"][0]["kind"] == "exception"
    assert main(["differentiate", name, "--out", "out", "--on-error", "one-sided"]) == 0
    assert json.loads(Path("out/derivative.json").read_text())["status"] == ["OK", "ONE_SIDED"]


def test_a_store_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = study(folder, 'store = "kept"\n' + QUADRATIC)
    for made in (7, 1):  # of the second call, the value at x is evaluated to see that the function is the same
        assert main(["differentiate", name, "--out", "out"]) == 0
        result = json.loads(Path("out/derivative.json").read_text())
        assert result["evaluations"]["made"] <= made
    assert (folder / "kept").is_dir()  # names in a study are relative to it
    capsys.readouterr()
    (folder / "study_helper.py").write_text("factor = 4.0\n")
    os.utime(folder / "study_helper.py", (1, 1))
    for module in ("study_model", "study_helper"):
        del sys.modules[module]
    assert main(["differentiate", name, "--out", "out"]) == 2
    assert "has changed" in capsys.readouterr().err


def test_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model").write_text("#!/bin/sh\nawk '{print $1 * $1 + 3 * $2}' \"$1\"\n")
    (folder / "model").chmod(0o755)
    (folder / "model.in").write_text("${a} ${b}\n")
    name = study(
        folder,
        '[program]\ncommand = "./model model.in"\nfiles = ["model.in"]\n[x]\na = 2.0\nb = 1\n[bounds]\na = [0, 2]\n',
    )
    assert main(["differentiate", name, "--out", "out", "--order", "4", "--h", "0.01"]) == 0
    result = json.loads(Path("out/derivative.json").read_text())
    assert result["program"] == "./model model.in"
    assert result["derivative"] == {"a": pytest.approx(4.0, rel=1e-3), "b": pytest.approx(3.0, rel=1e-3)}
    (folder / "model").write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    capsys.readouterr()
    assert main(["differentiate", name, "--out", "out"]) == 1
    printed = capsys.readouterr().err
    assert "the function failed at x itself:\n" in printed
    assert "no licence" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["orbit", "cooling"])
def test_the_examples(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "orbit", raising=False)
    assert main(["differentiate", str(EXAMPLES / f"{name}.toml"), "--out", "out", "--quiet"]) == 0
    assert set(json.loads(Path("out/derivative.json").read_text())["counts"]) == {"OK"}


def test_a_point_at_a_uri(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fsspec")
    np.save(tmp_path / "x.npy", np.array([0.5, 1.0]))
    text = 'function = "study_model:corner"\nx = "{}"\n'
    assert main(["differentiate", study(folder, text.format((tmp_path / "x.npy").as_uri())), "--out", "out"]) == 0
    assert json.loads(Path("out/derivative.json").read_text())["x"] == [0.5, 1.0]
    for uri, message in ((tmp_path / "no.npy").as_uri(), "not found"), ("sftp://a:pw@host/x.npy", "holds a password"):
        assert main(["differentiate", study(folder, text.format(uri)), "--out", "out"]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert "pw" not in printed


def test_results_at_a_uri(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fsspec")
    uri = (tmp_path / "there").as_uri()
    assert main(["differentiate", study(folder, QUADRATIC), "--out", uri]) == 0
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [
        "derivative.csv",
        "derivative.json",
        "derivative.npz",
    ]
    assert main(["differentiate", study(folder, QUADRATIC), "--out", "sftp://a:pw@host/x"]) == 2
    assert "out is a URI that holds a password" in capsys.readouterr().err


# --- bad input ----------------------------------------------------------------------------

GOOD = {"function": '"study_model:corner"', "x": "[0.5, 1.0]"}


def program(table: str) -> dict[str, str | None]:
    return {"function": None, "program": table}


BAD = [
    ({"funktion": '"a:b"'}, "'funktion' is not a field of a study; did you mean 'function'?"),
    ({"steps": "3"}, "'steps' is not a field of a study"),
    ({"function": None}, "a study needs function = 'MODULE:NAME' or a table [program]; it has neither."),
    ({"program": '{command = "a"}'}, "it has both."),
    ({"x": None}, "x is missing; it must be a table [x]"),
    ({"function": '"study_model"'}, "function is 'study_model'; it must be MODULE:NAME, as in model:loss."),
    ({"function": '"study_model.py:corner"'}, "it must be MODULE:NAME, as in study_model:corner."),
    ({"function": "3"}, "function is 3; it must be MODULE:NAME"),
    ({"function": '"no_such_module:f"'}, "whose module is not found; it must be a file no_such_module.py in "),
    ({"function": '"study_model:korner"'}, "has no 'korner'; did you mean 'corner'?"),
    ({"function": '"study_model:number"'}, "function is 'study_model:number', which is 3.0; it must be a function."),
    ({"x": '"start.txt"'}, "x is 'start.txt'; it must be a number, a list, a table, or an .npy or .npz file."),
    ({"x": '"start.npy"'}, "start.npy', which is not found."),
    ({"x": '"broken.npy"'}, "broken.npy', which is no file of arrays"),
    ({"x": '"broken.npz"'}, "broken.npz', which cannot be read"),
    ({"x": "[[1.0], [1.0, 2.0]]"}, "x is [[1.0], [1.0, 2.0]], whose lists have different lengths"),
    ({"x": "[true, false]"}, "x is [True, False]; a list must hold numbers."),
    ({"x": "true"}, "x is True; it must be a number"),
    ({"x": "{a = 1.0, b = {c = 1979-05-27}}"}, "x.b.c is 1979-05-27; it must be a number"),
    ({"x": "[]"}, "x"),
    ({"x": "[1.0, inf]"}, "x holds a number that is not finite"),
    ({"bounds": "[0.0]"}, "bounds is [0.0]; it must be a pair [lower, upper]"),
    ({"bounds": "[[0.0, 0.0, 0.0], 2.0]"}, "lower bounds has shape (3,), but x has shape (2,)"),
    ({"bounds": "[2.0, 3.0]"}, "x[0] is 0.5"),
    ({"x": "{alpha = 1.0}", "bounds": "{alfa = [0, 1]}"}, "bounds names 'alfa', which x does not have; did"),
    ({"scheme": '"centrall"'}, "scheme is 'centrall'"),
    ({"scheme": "3"}, "scheme is 3; it must be a text."),
    ({"order": "3"}, "order is 3"),
    ({"order": "2.5"}, "order is 2.5; it must be a whole number."),
    ({"h": "0.0"}, "h is 0 for x[0]; it must be positive and finite."),
    ({"h": "[0.1, -0.1]"}, "h is -0.1 for x[1]; it must be positive and finite."),
    ({"h": "[0.1, 0.1, 0.1]"}, "h has shape (3,), but x has shape (2,)"),
    ({"h": '"small"'}, "h is 'small'; it must be"),
    ({"h": "1e-30"}, "h"),
    ({"rel_step": "nan"}, "rel_step is nan"),
    ({"indices": '["y"]'}, "indices names 'y', which x does not have"),
    ({"workers": '"many"'}, "workers is 'many'; it must be"),
    ({"workers": "-1"}, "workers is -1; it must be"),
    ({"workers": "1.5"}, "workers is 1.5; it must be a whole number."),
    ({"workers": "0", "address": '"head:6379"'}, "address is 'head:6379', but workers is 0"),
    ({"timeout": "0"}, "timeout is 0; it must be a finite number above 0."),
    ({"timeout": "5"}, "timeout is 5, but an evaluation in this process cannot be ended"),
    ({"retries": "-1"}, "retries is -1; it must be a whole number"),
    ({"on_error": '"ignore"'}, "on_error is 'ignore'; it must be one of raise, one-sided, nan."),
    ({"deadline": '"soon"'}, "deadline is 'soon'; it must be a finite number above 0."),
    ({"vectorized": '"yes"'}, "vectorized is 'yes'; it must be true or false."),
    ({"kwargs": "[1]"}, "kwargs is [1]; it must be a table"),
    ({"args": "1"}, "args is 1; it must be a list"),
    ({"store": '""'}, "store is ''; it must be a text."),
    ({"store": '"sftp://a:pw@host/x"'}, "store is a URI that holds a password"),
    ({"noise": '"loud"'}, "noise is 'loud'; it must be a number"),
    (program("3"), "program is 3; it must be a table [program]"),
    (program("{}"), "command is missing in [program]"),
    (program('{command = "a ${x}", timout = 3}'), "'timout' is not a field of [program]; did you mean 'timeout'?"),
    (program('{command = "awk 1"}'), "[program]: the program 'awk 1' uses no parameter"),
    (program('{command = "awk ${y}"}'), "${y} is no parameter; there are x."),
    (program('{command = "awk ${x}", files = ["no.in"]}'), "which cannot be read"),
    (program('{command = "awk ${x}", files = [3]}'), "files in [program] is [3]; it must be a list of files"),
    (program('{command = "awk ${x}", copy = ["no.dat"]}'), "no.dat', which is no file or folder."),
    (program('{command = "awk ${x}", read = "xml:a"}'), "read is 'xml:a'; it must be 'stdout'"),
    (program('{command = "awk ${x}", shell = 1}'), "shell in [program] is 1; it must be true or false."),
    (program('{command = "./no-model ${x}"}'), "the program './no-model' is not found"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_a_bad_study_is_refused_in_one_line(
    changes: dict[str, str | None], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.npy").write_bytes(b"nothing")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04nothing")
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    name = study(folder, "".join(f"{field} = {value}\n" for field, value in fields.items()))
    assert main(["differentiate", name]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert printed.out == ""
    assert not Path("derivatives").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.toml"], "study is 'no.toml', which is not found; it must be a TOML file."),
        (["broken.toml"], "study is 'broken.toml', which is not valid TOML"),
        (["good.toml", "--order", "five"], "order is 'five'"),
        (["good.toml", "--h", ""], "h is ''; it must not be empty."),
        (["good.toml", "--indices", "y"], "indices names 'y'"),
        (["good.toml", "--out", "good.toml"], "out is 'good.toml', which is no folder"),
        (["good.toml", "--sceme", "central"], "unrecognized arguments: --sceme central"),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    Path("good.toml").write_text(QUADRATIC)
    Path("broken.toml").write_text("x = = 3")
    assert main(["differentiate", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"distnum: {message}")  # the file is not named for what the command line gives
    assert printed.count("\n") == 1


def test_a_function_that_returns_no_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["differentiate", study(folder, 'function = "study_model:text"\nx = 1.0\n')]) == 2
    assert "distnum: fun returned the text 'hello'; it must return a number" in capsys.readouterr().err
    assert not Path("derivatives").exists()


def test_a_module_that_fails_is_named_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError: "),
        ("import sys; sys.exit(4)\n", "ends its process when it is imported: sys.exit(4)."),
    ):
        sys.modules.pop("study_broken", None)
        (folder / "study_broken.py").write_text(text)
        assert main(["differentiate", study(folder, 'function = "study_broken:f"\nx = 1.0\n')]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
        if "exit" not in text:
            assert f"study_broken.py, line {2 if '/' in text else 1}" in printed


# --- on workers ---------------------------------------------------------------------------


def test_workers_import_what_lies_beside_the_study(
    ray_session: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = study(folder, QUADRATIC)
    assert main(["differentiate", name, "--out", "serial", "--quiet"]) == 0
    assert main(["differentiate", name, "--out", "out", "--workers", "2"]) == 0
    assert "on 2 workers" in capsys.readouterr().err
    assert Path("out/derivative.csv").read_bytes() == Path("serial/derivative.csv").read_bytes()
    name = study(folder, 'function = "study_model:limited"\nx = [1.0, 2.0]\nworkers = 1\n')
    assert main(["differentiate", name, "--out", "out"]) == 1
    printed = capsys.readouterr().err
    assert "the function failed where x[1] is moved by +1.2" in printed
    assert "  ValueError: x[1] is above its limit." in printed
    assert "study_model.py" in printed
    name = study(folder, 'function = "study_model:fatal"\nx = [1.0, 2.0]\nworkers = 1\n')
    assert main(["differentiate", name, "--out", "out"]) == 1
    assert "os._exit(3)" in capsys.readouterr().err


def test_an_interrupted_derivative_goes_on_with_its_store(folder: Path) -> None:
    (folder / "study_model.py").write_text(
        "import os, signal\n"
        "def f(x):\n"
        "    if x[1] != 2.0 and not os.path.exists(os.path.join(os.path.dirname(__file__), 'again')):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return float(x @ x)\n"
    )
    name = study(folder, 'function = "study_model:f"\nx = [1.0, 2.0]\n')
    command = [sys.executable, "-m", "distnum", "differentiate", name, "--out", "out", "--store", "kept"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130
    assert "interrupted; what is evaluated is kept in kept." in done.stderr
    assert "Traceback" not in done.stderr
    (folder / "again").touch()
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    assert json.loads(Path("out/derivative.json").read_text())["derivative"] == pytest.approx([2.0, 4.0])


# --- through submit -----------------------------------------------------------------------


def test_the_command_that_is_submitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = study(folder, 'store = "kept"\nworkers = 3\naddress = "elsewhere:6379"\n' + QUADRATIC)
    words, sent = submitted_study(["differentiate", name, "--indices", "a", "b[1]", "--h=1e-4"])
    assert sent == folder
    assert words[:2] == ["differentiate", "study.toml"]
    there = vars(parsed(words, COMMANDS))
    assert (there["workers"], there["store"], there["h"], there["indices"]) == ("3", "kept", "1e-4", ["a", "b[1]"])
    monkeypatch.setenv("HOME", "/home/somebody")
    assert vars(parsed(on_head(words), COMMANDS))["store"] == "/home/somebody/distnum-runs/kept"
    words, _ = submitted_study(["differentiate", study(folder, QUADRATIC), "--json"])
    assert words == ["differentiate", "study.toml", "--json", "--workers=auto"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers is 0, which uses no Ray"),
        (["--order", "5"], "order is 5"),
        (["--out", ""], "out is ''; it must name a folder or a URI."),
        (["--store", "sftp://user:pw@head/run"], "store is a URI that holds a password"),
        (["--out", "sftp://user:pw@head/run"], "out is a URI that holds a password"),
        (["--seed", "3"], "unrecognized arguments: --seed 3"),
    ],
)
def test_what_a_cluster_would_refuse_is_not_sent(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = study(folder, QUADRATIC)
    assert main(["submit", "--address", "http://127.0.0.1:9", "differentiate", name, *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    options = parsed(["submit", "differentiate", name], COMMANDS)
    assert submitted_command(options)[0] == "differentiate"
