"""``distnum check``: right and wrong gradients, where function, gradient and point come from, and bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from distnum import InputError
from distnum.cli.main import main
from distnum.cli.submit.client import _with_out
from distnum.cli.submit.studies import submitted_study

MODEL = """
import numpy as np

start = np.array([1.0, -2.0, 3.0])

def where():
    return start

def value(x):
    return float(x @ x)

def gradient(x):
    return 2 * x

def wrong(x):
    return 2 * x + np.array([0.0, 1e-3, 0.0])

def failing(x):
    raise RuntimeError("no gradient today")

def both(x):
    return float(x @ x), 2 * x

def product(x):
    return x["a"] * float(x["b"].sum())

def product_gradient(x):
    return {"a": float(x["b"].sum()), "b": x["a"] * np.ones(2)}

def ten_thousand(x):
    return float(x @ x)

def ten_thousand_wrong(x):
    gradient = 2 * x
    gradient[777] += 0.1
    return gradient
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "check_model", raising=False)
    (tmp_path / "check_model.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.array([1.0, -2.0, 3.0]))
    np.savez(tmp_path / "x.npz", a=2.0, b=np.array([1.0, 5.0]))
    return tmp_path


def check(*arguments: str) -> int:
    function, *rest = arguments
    return main(["check", f"check_model:{function}", *rest])


def test_a_right_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("value", "--gradient", "check_model:gradient", "--x", "1,2.5,3") == 0
    assert capsys.readouterr().out == "GradientCheck: all 3 compared entries are right.\n"


@pytest.mark.parametrize("x", ["1,-2,3", "x.npy", "check_model:start", "check_model:where"])
def test_where_the_point_comes_from(x: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("value", "--gradient", "check_model:wrong", "--x", x) == 1
    printed = capsys.readouterr().out
    assert "1 of 3 entries is wrong." in printed
    assert "x[1]                               -3.999               -4" in printed


@pytest.mark.parametrize("x", [["a=2", "b=1,5"], ["x.npz"]])
def test_points_by_name(x: list[str]) -> None:
    assert check("product", "--gradient", "check_model:product_gradient", "--x", *x) == 0


def test_a_function_that_returns_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("both", "--x=-1,2") == 0
    assert check("value", "--x=-1,2") == 2
    assert "the function returns no pair of a value and its gradient; give --gradient" in capsys.readouterr().err


def test_a_point_and_options_of_a_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "study.toml").write_text(
        'function = "check_model:value"\nx = [1.0, 2.0, 3.0]\nindices = ["x[0]"]\n'
    )
    (folder / "check_model.py").rename(folder / "deep" / "check_model.py")  # the study's folder is looked at
    command = ["check", str(folder / "deep" / "study.toml"), "--gradient", "check_model:wrong"]
    assert main(command) == 0
    assert "all 1 compared entries are right" in capsys.readouterr().out
    assert main([*command, "--indices", "1"]) == 1


def test_json_and_fast_mode(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    np.save(folder / "x.npy", np.linspace(0.5, 1.5, 10_000))
    command = ["ten_thousand", "--gradient", "check_model:ten_thousand_wrong", "--x", "x.npy", "--mode", "fast"]
    assert check(*command, "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["mode"], result["worst"]) == (False, "fast", "x[777]")
    assert result["entries"][0]["name"] == "x[777]"
    assert check(*command, "--quiet") == 1
    assert capsys.readouterr().out == ""


def test_what_is_printed_fits_into_80_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "check_model.py").write_text(
        "import numpy as np\n"
        "def f(x):\n    return float(np.abs(x['long_name_of_a_parameter'] * 1e-3).sum())\n"
        "def g(x):\n    return {'long_name_of_a_parameter': x['long_name_of_a_parameter'] * 1e-300 + 1.23456789e-4}\n"
    )
    assert check("f", "--gradient", "check_model:g", "--x", "long_name_of_a_parameter=0,0,1e-5,1") == 1
    printed = capsys.readouterr().out
    assert "kink" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_a_gradient_that_fails_is_shown_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("value", "--gradient", "check_model:failing", "--x", "1,2") == 1
    printed = capsys.readouterr().err
    assert printed.startswith("distnum: the function failed in its gradient:\n  RuntimeError: no gradient today.\n")
    assert "check_model.py" in printed


def test_on_workers(ray_session: None) -> None:
    assert check("value", "--gradient", "check_model:gradient", "--x", "1,2,3", "--workers", "1") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["value"], "x is missing; give --x"),
        (["value", "--x", "1,a"], "x is '1,a'; it must be numbers separated by commas"),
        (["value", "--x", "a=1", "2"], "x is 'a=1 2'; it must be an .npy or .npz file"),
        (["value", "--x", "a=1", "a=2"], "x is 'a=1 a=2'; it must be"),
        (["value", "--x", "no.npy"], "x is 'no.npy', which is not found."),
        (["value", "--x", "check_model:failing"], "x is 'check_model:failing', which fails: TypeError"),
        (["value", "--x", "1,nan", "--gradient", "check_model:gradient"], "x holds a number that is not finite"),
        (["valeu", "--x", "1"], "has no 'valeu'; did you mean 'value'?"),
        (["start", "--x", "1"], "function is 'check_model:start', which is array("),
        (["value", "--x", "1,2", "--gradient", "gradient"], "gradient is 'gradient'; it must be MODULE:NAME"),
        (["value", "--x", "1,2", "--gradient", "check_model:start"], "The gradient must have the form of x."),
        (["value", "--x", "1,2", "--gradient", "check_model:gradient", "--mode", "slow"], "mode is 'slow'; it must be"),
        (["value", "--x", "1,2", "--gradient", "check_model:gradient", "--rtol", "-1"], "rtol is '-1'; it must be"),
        (["value", "--x", "1,2", "--gradient", "check_model:gradient", "--order", "3"], "order is 3"),
        (["value", "--x", "1,2", "--seed", "x"], "seed is 'x'; it must be a whole number"),
    ],
)  # fmt: skip
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_the_command_that_is_submitted(folder: Path) -> None:
    command = ["check", "check_model:value", "--gradient", "check_model:gradient", "--x", str(folder / "x.npy")]
    words, sent = submitted_study(command)
    assert sent == folder
    assert words[:2] == ["check", "check_model:value"]
    assert words[words.index("--x") + 1] == "x.npy"
    assert _with_out(words, "number") == ([*words, "--address", "auto"], "")  # nothing is kept of a check
    words, _ = submitted_study(["check", "check_model:both", "--x=-1,2"])
    assert "--x=-1,2" in words
    for x, message in (("no.npy", "which is not found"), (str(Path(__file__).parent / "x.npy"), "which is not found")):
        with pytest.raises(InputError, match=message):
            submitted_study(["check", "check_model:value", "--x", x])
    other = folder.parent / f"{folder.name}-other.npy"
    np.save(other, np.ones(2))
    with pytest.raises(InputError, match="outside of"):
        submitted_study(["check", "check_model:value", "--x", str(other)])
