"""Random numbers as a pure function of (seed, purpose, step).

Nothing is drawn from a stream that somebody else may have drawn from before: a worker, a
resumed run and a fresh one get the same numbers for the same step. The generator is
counter-based (Philox 4x64; J. Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "random_generator"]


class Purpose(IntEnum):
    """What the numbers are for; each has numbers of its own."""

    INITIAL_PARAMS = 0
    BATCH = 1


def random_generator(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """A fresh generator for that seed, purpose and step."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(purpose), step])))
