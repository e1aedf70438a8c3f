"""The shape of the package: what each folder says of itself, sizes, public names, and what an import loads.

``lint-imports`` holds the direction of imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import distnum

PACKAGE = Path(distnum.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES} - {PACKAGE})
KERNELS = PACKAGE / "networks" / "propagation" / "kernels.py"  # Numba keeps machine code by file


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_each_folder_explains_itself_and_does_nothing_else(folder: Path) -> None:
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree) or ""
    assert len(tree.body) == 1
    assert "mport" in docstring, "it must say what the folder may import"


@pytest.mark.parametrize("module", [path for path in MODULES if path != KERNELS], ids=name)
def test_modules_and_classes_are_short(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 200, node.name


def test_public_names_are_there() -> None:
    assert all(getattr(distnum, public) is not None for public in distnum.__all__)
    assert set(distnum.__all__) >= {"train", "steps", "gradient", "check_gradient", "scale", "load", "TwoLayerNet"}


def test_importing_distnum_loads_nothing_heavy() -> None:
    code = "import sys, distnum; print({'ray', 'numba', 'matplotlib', 'scipy', 'rich', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
