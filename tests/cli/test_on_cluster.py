"""The program that a submitted job starts on the cluster's head."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import distnum
from distnum.cli import on_cluster
from distnum.cli.submit.transfer import unpack
from distnum.common.requirements import unmet

PACKAGE = Path(distnum.__file__).parent


def test_missing_packages_and_wrong_versions_are_reported() -> None:
    assert unmet(["numpy>=1.0", "numpy<1; python_version < '3'"]) == []
    wrong = unmet(["numpy>=99", "no-such-package>=1"])
    assert wrong[0].startswith("numpy is ")
    assert wrong[0].endswith("(>=99 is needed)")
    assert wrong[1] == "no-such-package is missing (no-such-package>=1 is needed)"


def test_importing_it_loads_the_standard_library_and_the_requirements_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import distnum.cli.on_cluster\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(name for name in new if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ast.literal_eval(done.stdout)
    # The package itself loads its version.
    expected = {"cli", "cli.on_cluster", "common", "common.requirements", "common.version"}
    assert modules == ["distnum", *sorted(f"distnum.{name}" for name in expected)]
    for name in modules:
        path = PACKAGE.parent.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        ast.parse(file.read_text(), feature_version=(3, 7))  # an old Python must be able to report its version


def test_nothing_imports_it() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "on_cluster" not in ast.unparse(node), path


def test_an_old_python_and_missing_packages_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTNUM_REQUIREMENTS", '["no-such-package>=1"]')
    assert on_cluster.main(["train"]) == 2
    assert "distnum: the cluster does not fit: no-such-package is missing" in capsys.readouterr().err
    monkeypatch.setattr(sys, "version_info", (3, 8))
    assert on_cluster.main(["train"]) == 2
    assert "but distnum needs 3.10 or newer." in capsys.readouterr().err


def test_a_run_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_cluster.main(["pack", str(tmp_path / "missing")]) == 2
    assert f"there is no run in {tmp_path}/missing on the cluster's head" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("content")
    assert on_cluster.main(["pack", str(tmp_path / "run")]) == 0
    unpack(capsys.readouterr().out, tmp_path / "to")
    assert (tmp_path / "to" / "a").read_text() == "content"
