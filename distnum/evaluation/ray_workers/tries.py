"""How often each point has been tried, and what becomes of it when a worker dies. No Ray here."""

from __future__ import annotations

from distnum.common.errors import LostError
from distnum.evaluation.outcomes import Failure
from distnum.evaluation.ray_workers.ends import End

__all__ = ["Tries"]

# A point is tried again after this number of deaths that it has not caused.
_MOST_LOST = 3
# Workers may die this often, and as often for each worker, without a single finished evaluation.
_MOST_DEATHS, _MOST_DEATHS_EACH = 10, 3


class Tries:
    """Counts the failures of points, apart from deaths that they have not caused.

    Args:
        retries: Number of times that a point is tried again after a failure of its own.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._n_deaths = 0

    def succeeded(self) -> None:
        """Note that a worker has replied."""
        self._n_deaths = 0

    def died(self, n_workers: int, end: End) -> None:
        """Note that a worker has died.

        Raises:
            LostError: Workers die again and again, and nothing is finished.
        """
        if end.kind != "lost":
            return
        self._n_deaths += 1
        if self._n_deaths > _MOST_DEATHS + _MOST_DEATHS_EACH * n_workers:
            raise LostError(
                f"{self._n_deaths} workers were lost without any finished evaluation in between, the last one because: "
                f"{end.text}"
            )

    def failure(self, number: int, end: End, host: str) -> Failure | None:
        """The failure of a point with which a worker has died; None if it is to be tried again."""
        counts, most = (self._lost, _MOST_LOST) if end.kind == "lost" else (self._failed, self._retries)
        counts[number] = counts.get(number, 0) + 1
        if counts[number] <= most:
            return None
        n_tries = self._lost.get(number, 0) + self._failed.get(number, 0)
        text = f"the function {end.text}"
        if end.kind == "lost":
            text = f"workers were lost {n_tries} times, the last one because: {end.text}"
        return Failure(end.kind, text, end.trace, n_tries, host)
