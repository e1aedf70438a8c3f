"""SciPy's own tests of ``approx_derivative`` pass with distnum in its place.

https://github.com/scipy/scipy/blob/main/scipy/optimize/tests/test__numdiff.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scipy.optimize import _numdiff
from scipy.optimize.tests import test__numdiff as theirs

from tests.differentiation.other_tools.adopting import adopt, cases_of, noting
from tests.differentiation.other_tools.scipy_adapter import approx_derivative

_HELPER = "tests a private function of SciPy that computes no derivative"
LEFT_OUT = {
    "test_group_columns": _HELPER,
    "test_correct_fp_eps": _HELPER,
    "test__compute_absolute_step": _HELPER,
    "TestAdjustSchemeToBounds.test_no_bounds": _HELPER,
    "TestAdjustSchemeToBounds.test_with_bound": _HELPER,
    "TestAdjustSchemeToBounds.test_tight_bounds": _HELPER,
    "TestApproxDerivativesDense.test_wrong_dimensions": "expects a refusal of functions that return matrices",
    "TestApproxDerivativesDense.test_scalar_scalar_abs_step": (
        "demands nine digits with h = 1.5e-8, where rounding leaves eight or so; see test_left_out_cases.py"
    ),
}

pytestmark = [
    # A derivative that comes with a warning must be right all the same.
    pytest.mark.filterwarnings("ignore::distnum.DerivativeWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

adopt(theirs, LEFT_OUT, globals())


@pytest.fixture
def by_distnum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put distnum in the place of SciPy's derivatives."""
    calls: list[str] = []
    for module in (theirs, _numdiff):  # the latter for SciPy's check_derivative
        monkeypatch.setattr(module, "approx_derivative", noting(calls, approx_derivative))
    yield
    assert calls, "the case does not use distnum"


def test_each_case_is_run_or_left_out_for_a_reason() -> None:
    assert cases_of(vars(theirs)) - cases_of(globals()) == LEFT_OUT.keys()
