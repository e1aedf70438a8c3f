"""Timing rivals in turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["interleaved", "paired_ratio", "spread", "timed"]

# A call shorter than this is repeated until so many seconds have passed, and the mean is kept:
# what ran before it (and left the caches cold) then weighs little.
_SHORTEST_S = 0.05


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call; of a short one the mean over several calls.

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
    """Seconds of every rival in every round; in each round every rival has its turn.

    Args:
        rivals: what to time, by name.
        repeats: rounds that count.
        warmup: rounds before them that do not.

    >>> {name: len(seconds) for name, seconds in interleaved({"a": list, "b": dict}, 3).items()}
    {'a': 3, 'b': 3}
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(warmup):
        for call in rivals.values():
            call()
    for number in range(repeats):
        # Every other round backwards, so that nobody always follows the same rival.
        names = list(rivals)[:: -1 if number % 2 else 1]
        for name in names:
            seconds[name].append(timed(rivals[name]))
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median, the fastest and the slowest, in seconds.

    >>> spread([3.0, 1.0, 2.0])
    {'median_s': 2.0, 'min_s': 1.0, 'max_s': 3.0}
    """
    return {"median_s": median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """How many times as long as the reference: the median of the ratios round by round.

    >>> paired_ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return median(ours / theirs for ours, theirs in zip(seconds, reference, strict=True))
