"""The library behind NumPy's matrix products: on one thread where bits matter, and which it is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

__all__ = ["blas_name", "single_threaded_blas"]


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[Any]:
    """One thread for NumPy's matrix products: their rounding must not depend on the machine's cores."""
    manager: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return manager


def blas_name() -> str:
    """The library, its version and the processor it computes for, on which the rounding of products depends."""
    libraries = _controller().select(user_api="blas").info()
    return ", ".join(
        " ".join(str(one.get(key)) for key in ("internal_api", "version", "architecture") if one.get(key))
        for one in libraries
    )
