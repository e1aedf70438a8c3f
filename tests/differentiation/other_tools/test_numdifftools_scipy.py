"""The tests that numdifftools has of derivatives by SciPy pass with distnum in the place of SciPy.

https://github.com/pbrod/numdifftools/blob/master/src/numdifftools/tests/test_nd_scipy.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from numdifftools import nd_scipy
from numdifftools.tests import test_nd_scipy as theirs

from tests.differentiation.other_tools.adopting import adopt, cases_of, noting
from tests.differentiation.other_tools.scipy_adapter import approx_derivative

_SKIPPED = "is skipped by numdifftools itself, as SciPy takes no functions that return matrices"
LEFT_OUT = {
    "TestJacobian.test_on_matrix_valued_function": _SKIPPED,
    "TestJacobian.test_issue_25": _SKIPPED,
}

pytestmark = [
    # A derivative that comes with a warning must be right all the same.
    pytest.mark.filterwarnings("ignore::distnum.DerivativeWarning"),
]

adopt(theirs, LEFT_OUT, globals())


@pytest.fixture
def by_distnum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put distnum in the place of SciPy's derivatives."""
    calls: list[str] = []
    monkeypatch.setattr(nd_scipy, "approx_derivative", noting(calls, approx_derivative))
    yield
    assert calls, "the case does not use distnum"


def test_each_case_is_run_or_left_out_for_a_reason() -> None:
    assert cases_of(vars(theirs)) - cases_of(globals()) == LEFT_OUT.keys()
