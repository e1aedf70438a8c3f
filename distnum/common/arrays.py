"""Types of arrays."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Mask"]

Array: TypeAlias = NDArray[np.floating]
"""An array of float32 or float64, of any shape."""

Mask: TypeAlias = NDArray[np.bool_]
"""An array of booleans, of any shape."""
