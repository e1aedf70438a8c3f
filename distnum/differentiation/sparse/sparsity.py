"""Patterns of Jacobians with few entries, and groups of coordinates that can be moved together.

Two coordinates are independent if no output depends on both. All of a group of such coordinates are moved at once: each
output that changes belongs to one of them. A. Curtis, M. Powell and J. Reid, "On the estimation of sparse Jacobian
matrices", J. Inst. Math. Appl. 13 (1974).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.evaluation.forms import Form
from distnum.evaluation.values import ValueForm

__all__ = ["Sparsity"]

# Values at the points of coordinates that are judged together.
_MOST_VALUES = 2**20
_ALLOWED = (
    "it must be an array or a sparse matrix of shape (fun(x).size, x.size), or a pair of it and a group number for "
    "each coordinate"
)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sparsity:
    """Which outputs may depend on which coordinates.

    The entries are those of the coordinates one after the other, each in the order of the outputs.

    Attributes:
        shape: Number of outputs ``m`` and of coordinates ``n``.
        starts: Where the entries of each coordinate start, and the end of the last, shape ``(n + 1,)``.
        outputs: The output of each entry, shape ``(n_entries,)``.
        given_groups: Group of each coordinate as the user states it, shape ``(n,)``; None if they are to be found.
    """

    shape: tuple[int, int]
    starts: Ints = field(repr=False)
    outputs: Ints = field(repr=False)
    given_groups: Ints | None = field(repr=False)

    @classmethod
    def of(cls, sparsity: Any, form: Form) -> Sparsity | None:
        """The pattern that the option ``sparsity`` states; None for None.

        Args:
            sparsity: An array, not zero where an entry may be; a sparse matrix of SciPy with such entries, stored zeros
                included; or a pair of one of these and group numbers, shape ``(n,)``.
            form: Form of the function's argument.

        Raises:
            InputError: It is something else, or coordinates of a group are not independent.
        """
        if sparsity is None:
            return None
        pattern, groups = sparsity, None
        if isinstance(sparsity, tuple) and len(sparsity) == 2:
            pattern, groups = sparsity
        if hasattr(pattern, "tocsc"):
            shape, starts, outputs = _of_sparse(pattern)
        else:
            shape, starts, outputs = _of_array(pattern)
        if shape[1] != form.size:
            raise InputError(f"sparsity has {shape[1]:,} columns, but {form.what} has {form.size:,} numbers.")
        if not len(outputs):
            raise InputError("sparsity has no entries; then the derivative is zero.")
        made = cls(shape, starts, outputs, None if groups is None else _checked_groups(groups, form))
        made._check_groups(form)
        return made

    def _check_groups(self, form: Form) -> None:
        if self.given_groups is None:
            return
        columns = np.repeat(np.arange(self.shape[1]), np.diff(self.starts))
        order = np.lexsort((self.given_groups[columns], self.outputs))
        groups, outputs = self.given_groups[columns][order], self.outputs[order]
        shared = np.flatnonzero((groups[1:] == groups[:-1]) & (outputs[1:] == outputs[:-1]))
        if len(shared):
            first, second = (form.entry_name(int(columns[order[shared[0] + step]])) for step in (0, 1))
            raise InputError(
                f"sparsity has {first} and {second} in the same group, but both of them in row {outputs[shared[0]]} of "
                "its pattern; coordinates of a group must not have a row in common."
            )

    def counts(self, coordinates: Ints) -> Ints:
        """Number of entries of some coordinates."""
        return self.starts[coordinates + 1] - self.starts[coordinates]

    def entries(self, coordinates: Ints) -> Ints:
        """Numbers of the entries of ``c`` coordinates that have ``w`` entries each, shape ``(c, w)``."""
        first = self.starts[coordinates]
        return first[:, None] + np.arange(int(self.counts(coordinates[:1]).sum()))

    def rows(self, coordinates: Ints) -> Ints:
        """The outputs that may depend on any of some coordinates."""
        return np.concatenate([self.outputs[self.starts[one] : self.starts[one + 1]] for one in coordinates.tolist()])

    def alike(self, coordinates: Ints, k: int) -> Iterator[Ints]:
        """Split coordinates with ``k`` points each into parts that have the same number of entries.

        Yields:
            Positions in ``coordinates``, ascending in each part.
        """
        counts = self.counts(coordinates)
        for count in np.unique(counts[counts > 0]).tolist():
            chosen = np.flatnonzero(counts == count)
            size = max(1, _MOST_VALUES // (k * count))
            yield from (chosen[begin : begin + size] for begin in range(0, len(chosen), size))

    def groups(self, coordinates: Ints) -> Ints:
        """Group of each of some coordinates that have entries, shape ``(c,)``, numbered from zero."""
        if self.given_groups is not None:
            return np.unique(self.given_groups[coordinates], return_inverse=True)[1].astype(np.int64)
        return _cached_groups(self.starts.tobytes(), self.outputs.tobytes(), coordinates.tobytes())

    def n_points(self, coordinates: Ints, k: int) -> int:
        """Number of evaluations for coordinates with ``k`` points each, and to confirm the pattern."""
        used = coordinates[self.counts(coordinates) > 0]
        n_groups = int(self.groups(used).max()) + 1 if used.size else 0
        return n_groups * k + (0 if n_groups == len(coordinates) else 2)

    def check_size(self, value_form: ValueForm) -> None:
        """Refuse a pattern for another number of outputs.

        Raises:
            InputError: The function's value has another size.
        """
        if value_form.size != self.shape[0]:
            raise InputError(f"sparsity has {self.shape[0]:,} rows, but fun(x) has {value_form.size:,} numbers.")

    def jacobian(self, entries: NDArray[Any], value_form: ValueForm, form: Form) -> Any:
        """The entries as a ``scipy.sparse.csr_array`` of shape ``(f.size, x.size)``; by name as the dense Jacobian is.

        Args:
            entries: Shape ``(n_entries,)``, of any dtype.
            value_form, form: Forms of the function's value and argument.
        """
        from scipy.sparse import csc_array

        matrix = csc_array((entries, self.outputs, self.starts), shape=self.shape).tocsr()
        items, row = [], 0
        for shape in value_form.shapes:
            rows = matrix if prod(shape) == self.shape[0] else matrix[row : row + prod(shape)]
            ends = zip(form.starts[:-1], form.starts[1:], strict=True)
            leaves = [rows if end - start == self.shape[1] else rows[:, start:end] for start, end in ends]
            items.append(form.nested(leaves))
            row += prod(shape)
        return items[0] if value_form.keys is None else dict(zip(value_form.keys, items, strict=True))


def _of_sparse(pattern: Any) -> tuple[tuple[int, int], Ints, Ints]:
    if len(pattern.shape) != 2:
        raise InputError(f"sparsity has shape {pattern.shape}; {_ALLOWED}.")
    matrix = pattern.tocsc(copy=True)
    matrix.sum_duplicates()  # sorts, too
    m, n = (int(size) for size in matrix.shape)
    return (m, n), matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)


def _of_array(pattern: Any) -> tuple[tuple[int, int], Ints, Ints]:
    try:
        array = np.asarray(pattern)
    except ValueError:  # lists of different lengths
        raise InputError(f"sparsity is {pattern!r:.60}; {_ALLOWED}.") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"sparsity is {pattern!r:.60}; {_ALLOWED}.")
    if array.ndim == 1:
        raise InputError(
            f"sparsity has shape {array.shape}. Groups alone do not say to which of their coordinates an output "
            f"belongs; {_ALLOWED}."
        )
    if array.ndim != 2:
        raise InputError(f"sparsity has shape {array.shape}; {_ALLOWED}.")
    columns, outputs = np.nonzero(array.T)
    starts = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=array.shape[1]))])
    return (array.shape[0], array.shape[1]), starts.astype(np.int64), outputs.astype(np.int64)


def _checked_groups(groups: Any, form: Form) -> Ints:
    array = np.asarray(groups)
    if array.dtype.kind not in "iu" or array.shape != (form.size,):
        raise InputError(
            f"the groups of sparsity are {groups!r:.60}; there must be one whole number for each of the {form.size:,} "
            f"numbers of {form.what}."
        )
    return array.astype(np.int64)


@lru_cache(maxsize=4)
def _cached_groups(starts: bytes, outputs: bytes, coordinates: bytes) -> Ints:
    """Groups of coordinates; an optimizer asks for those of the same pattern again and again."""
    bounds, rows = (np.frombuffer(one, np.int64) for one in (starts, outputs))
    columns = np.frombuffer(coordinates, np.int64)
    counts = bounds[columns + 1] - bounds[columns]
    orders = [np.arange(len(columns)), np.argsort(-counts, kind="stable")]
    return min((_greedy(bounds, rows, columns, order) for order in orders), key=lambda groups: int(groups.max()))


def _greedy(bounds: Ints, rows: Ints, columns: Ints, order: Ints) -> Ints:
    """Put each coordinate, in this order, into the first group that has none of its outputs."""
    groups = np.zeros(len(columns), np.int64)
    all_rows: list[int] = rows.tolist()
    taken: dict[int, int] = {}  # groups that have an output, as bits
    begins, ends = bounds[columns].tolist(), bounds[columns + 1].tolist()
    for position in order.tolist():
        outputs = all_rows[begins[position] : ends[position]]
        used = 0
        for output in outputs:
            used |= taken.get(output, 0)
        bit = ~used & (used + 1)
        groups[position] = bit.bit_length() - 1
        for output in outputs:
            taken[output] = taken.get(output, 0) | bit
    return groups
