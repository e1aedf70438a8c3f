"""What the command line prints about a derivative, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distnum.common.text import duration, printable

if TYPE_CHECKING:
    from distnum.differentiation.derivative import Derivative
    from distnum.studies.entries import Entry

__all__ = ["WIDTH", "counted", "report", "short_time", "wrapped"]

WIDTH = 80
"""Columns of a terminal."""

_MOST_ROWS = 20


def counted(n: int, what: str) -> str:
    """Return a number of things.

    >>> counted(1, "worker"), counted(2000, "worker")
    ('1 worker', '2,000 workers')
    """
    return f"{n:,} {what}{'s'[: n != 1]}"


def short_time(seconds: float) -> str:
    """Return a duration as short text, also one below a millisecond.

    >>> short_time(3e-6), short_time(0.25)
    ('3 µs', '250 ms')
    """
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.9995e-3 else duration(seconds)


def wrapped(text: str, width: int = WIDTH, indent: str = "") -> list[str]:
    """Return text as lines of at most ``width`` columns, all but the first of them indented."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def report(derivative: Derivative, chosen: NDArray[np.int64]) -> str:
    """Return lines about a derivative: the worst entries first, then those that come first.

    Args:
        derivative: The derivative.
        chosen: Coordinates that were asked for, as flat indices.
    """
    from distnum.studies.entries import Listed
    from distnum.studies.files import MOST_ENTRIES

    listed = Listed(derivative, chosen)
    rows = list(listed.named(listed.worst_first(_MOST_ROWS)))
    lines = [_value(derivative), "", *_table(rows, with_output=derivative.value_form.size > 1)]
    if len(listed) > len(rows):
        file = f"derivative.{'csv' if derivative.entries.status.size <= MOST_ENTRIES else 'npz'}"
        lines.append(f"... {len(listed) - len(rows):,} more in {file}")
    for one in derivative.failures[:3]:
        where = f"where {one.name} is moved by {one.offset:+.3g}" if one.name else "at x itself"
        lines += ["", *wrapped(f"failed {where}: {one.failure.text}")]
    if len(derivative.failures) > 3:
        lines.append(f"... {len(derivative.failures) - 3:,} more failures in derivative.json")
    lines += ["", *wrapped(derivative.message), ""]
    made = counted(derivative.n_evals, "evaluation")
    if derivative.n_cached:
        made += f" and {derivative.n_cached:,} from the store"
    lines.append(f"made in   {short_time(derivative.seconds)}: {made}")
    return printable("\n".join(lines), keep="\n")


def _value(derivative: Derivative) -> str:
    form = derivative.value_form
    if form.size == 1:
        value = derivative.value if form.keys is None else next(iter(derivative.value.values()))
        return f"value     {np.ravel(value)[0].item():.15g}"
    return f"value     {form}: {form.size:,} numbers"[:WIDTH]


def _table(rows: list[Entry], with_output: bool) -> list[str]:
    names = WIDTH - 49  # for output and coordinate
    longest = max([len("coordinate"), *(len(row.coordinate) for row in rows)])
    first = min(max([len("output"), *(len(row.output) for row in rows)]), max(12, names - longest - 1))
    first = first if with_output else 0
    second = min(longest, names - first - with_output)

    def line(output: str, coordinate: str, rest: str) -> str:
        text = f"{_short(coordinate, second):<{second}} {rest}"
        return f"{_short(output, first):<{first}} {text}" if with_output else text

    lines = [line("output", "coordinate", f"{'derivative':>16} {'error':>9} {'h':>9}  status")]
    for row in rows:
        derivative = f"{row.derivative:.4g}" if isinstance(row.derivative, complex) else f"{row.derivative:.9g}"
        lines.append(
            line(row.output, row.coordinate, f"{derivative:>16} {row.error:>9.2g} {row.h:>9.2g}  {row.status}")
        )
    return lines


def _short(name: str, width: int) -> str:
    """The end of a name, which distinguishes it from others."""
    name = printable(name)
    return name if len(name) <= width else f"...{name[3 - width :]}"
