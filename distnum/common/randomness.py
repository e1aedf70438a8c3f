"""Random numbers as a pure function of seed, purpose and step.

No generator is shared, so a worker, a resumed run and a new one draw the same numbers for the same step. The generator
is counter-based (Philox 4x64; J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "random_generator"]


class Purpose(IntEnum):
    """What random numbers are for. Each purpose has its own, independent numbers."""

    INITIAL_PARAMS = 0
    BATCH = 1


def random_generator(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """Return a new generator; equal arguments give equal numbers.

    >>> [int(random_generator(0, Purpose.BATCH, step=3).integers(100)) for _ in range(2)]
    [71, 71]
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(purpose), step])))
