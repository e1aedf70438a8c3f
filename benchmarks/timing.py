"""Time several calls in turns, so that a machine that slows down affects all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["interleaved", "paired_ratio", "spread", "timed"]

# A shorter call is repeated until this many seconds have passed, and the mean is used: cold caches
# then matter little.
_SHORTEST_S = 0.05


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call; for a short call, the mean of several.

    >>> timed(lambda: None) < 1e-3
    True
    """
    n_calls = 0
    started = perf_counter()
    while True:
        call()
        n_calls += 1
        elapsed = perf_counter() - started
        if elapsed >= _SHORTEST_S:
            return elapsed / n_calls


def interleaved(rivals: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Return the seconds of every call in every round.

    Args:
        rivals: The calls to time, by name.
        repeats: Number of timed rounds, in each of which every call is made.
        warmup: Number of rounds before them that are not timed.

    >>> {name: len(seconds) for name, seconds in interleaved({"a": list, "b": dict}, 3).items()}
    {'a': 3, 'b': 3}
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(warmup):
        for call in rivals.values():
            call()
    for number in range(repeats):
        # Every other round is reversed, so that no call always follows the same one.
        names = list(rivals)[:: -1 if number % 2 else 1]
        for name in names:
            seconds[name].append(timed(rivals[name]))
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest of some seconds.

    >>> spread([3.0, 1.0, 2.0])
    {'median_s': 2.0, 'min_s': 1.0, 'max_s': 3.0}
    """
    return {"median_s": median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median of the ratios of each round to its reference.

    >>> paired_ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return median(ours / theirs for ours, theirs in zip(seconds, reference, strict=True))
