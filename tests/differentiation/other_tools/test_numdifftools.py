"""The tests of numdifftools pass with distnum in place of its classes.

https://github.com/pbrod/numdifftools/tree/master/src/numdifftools/tests
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numdifftools
import pytest
from numdifftools.tests import (
    test_example_functions,
    test_jacobian_complex_validation,
    test_numdifftools,
)

from tests.differentiation.other_tools import numdifftools_adapter
from tests.differentiation.other_tools.adopting import adopt, cases_of, noting

THEIRS = (test_numdifftools, test_example_functions, test_jacobian_complex_validation)

_SECOND = "asks for derivatives of other orders than the first"
_CLASSES = "is given the classes of numdifftools where it is defined"
_INNER = "tests coefficients or steps that only numdifftools has"
_MATRICES = "reads the columns of a matrix as points of their own; for distnum all its entries are coordinates"
LEFT_OUT = {
    "TestRichardson.test_central_forward_backward": _INNER,
    "TestRichardson.test_complex": _INNER,
    "TestDerivative.test_default_scale": _INNER,
    "TestDerivative.test_infinite_functions": "expects NaN where the function is infinite at x, which distnum refuses",
    "TestDerivative.test_high_order_derivative_cos": _SECOND,
    "TestDerivative.test_derivative_of_cos_x": _SECOND,
    "TestDerivative.test_fun_with_additional_parameters": _SECOND,
    "TestDerivative.test_derivative_with_step_options": _SECOND,
    "TestExampleFunctions.test_high_order_derivative": _SECOND,
    **{f"TestHessdiag.test_{name}": _SECOND for name in ("complex", "fixed_step", "default_step")},
    **{
        f"TestHessian.test_{name}": _SECOND
        for name in (
            "run_hamiltonian",
            "complex_hessian_issue_35",
            "hessian_cos_x_y_at_0_0",
            "on_scalar_function",
            "on_vector_valued_function",
        )
    },
    "TestJacobian.test_on_vector_valued_function": (
        "demands an error below 1e-12 from points on one side, of which distnum has order 2 at most"
    ),
    "TestJacobian.test_on_matrix_valued_function": _MATRICES,
    "TestJacobian.test_issue_25": _MATRICES,
    "TestJacobian.test_jacobian_fulloutput": _INNER,
    "TestGradient.test_gradient_fulloutput": _INNER,
    "test_complex_output_rejected_before_perturbation": _CLASSES,
    "test_complex_variable_rejected": _CLASSES,
    "test_real_valued_function_still_accepted": _CLASSES,
}
MODULES_LEFT_OUT = {
    "test_extrapolation": _INNER,
    "test_fornberg": _INNER,
    "test_step_generators": _INNER,
    "test_invalid_outputs": "expects warnings of NumPy; see test_left_out_cases.py",
    "test_limits": "limits and residues",
    "test_multicomplex": "arithmetic of bicomplex numbers",
    "test_nd_algopy": "algorithmic differentiation; its cases are those of test_numdifftools",
    "test_nd_statsmodels": "its cases are those of test_numdifftools",
    "test_profile_numdifftools": "speed",
    "test_scripts": "command lines",
}

pytestmark = [
    # A derivative that comes with a warning must be right all the same.
    pytest.mark.filterwarnings("ignore::distnum.DerivativeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in log:RuntimeWarning"),
]

for module in THEIRS:
    adopt(module, LEFT_OUT, globals())


@pytest.fixture
def by_distnum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put distnum in the place of the classes of numdifftools."""
    calls: list[str] = []
    classes = {
        name: noting(calls, getattr(numdifftools_adapter, name))
        for name in ("Derivative", "Gradient", "Jacobian", "directionaldiff")
    }
    nd = SimpleNamespace(MinStepGenerator=numdifftools.MinStepGenerator, **classes)
    for module in THEIRS:
        monkeypatch.setattr(module, "nd", nd)
    monkeypatch.setattr(test_example_functions, "nds", nd)  # by statsmodels
    monkeypatch.setattr(test_example_functions, "nda", None, raising=False)  # by algopy
    yield
    assert calls, "the case does not use distnum"


def test_each_case_is_run_or_left_out_for_a_reason() -> None:
    cases = set.union(*(cases_of(vars(theirs)) for theirs in THEIRS))
    assert cases - cases_of(globals()) == LEFT_OUT.keys()
    modules = {path.stem for path in Path(numdifftools.__file__).parent.glob("tests/test_*.py")}
    used = {module.__name__.rpartition(".")[2] for module in THEIRS} | {"test_nd_scipy"}
    assert modules - used == MODULES_LEFT_OUT.keys()
