"""How the units of a layer move the loss when their pre-activations are shifted.

For a layer and a block of examples this decides which units move at all, and how each can be
followed to the loss: along a straight line or a curve in proportion to one vector of output
changes, by a series of the loss, or by pushing its change through the layers that remain.
Compiled loops do all of it for all rows of the layer; what they cannot compute (a user's NumPy
function, a smooth activation moved very far) NumPy does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.arrays import Array, Mask
from distnum.networks.activations import Move
from distnum.networks.losses import SeriesLength, series_length
from distnum.networks.propagation.base_point import BasePoint
from distnum.networks.propagation.kernel_inputs import count_log_terms, padded_stack, side_by_side
from distnum.networks.propagation.kinks import Kinks, LaterLayer, later_kinks

__all__ = ["UnitRoutes"]

# Numbers in one temporary array of a push, for the same reason.
_PUSH_NUMBERS = 32_768

# Rows of every matrix product in a push. One shape, so that one row's bits do not depend on
# how many others are pushed beside it.
_PUSH_ROWS = 64

# Terms of the series of the loss along a unit in a smooth network: few lengths, so that few loops need be
# compiled; and how many more are found, to see that they vanish.
_SERIES_TERMS, _TERMS_BEYOND = (3, 5, 9), 2

# With more later units that bend, pushing a change through whole layers takes no longer.
_MOST_KINKS = 32

# How a unit moves: not at all, along a straight line, or otherwise.
_STILL, _STRAIGHT, _BENT = 0, 1, 2
_LINE = Move("line", lambda slope: (slope, slope))


class UnitRoutes:
    """How some units of layer ``number`` move the loss of the examples in ``block``."""

    def __init__(self, at: BasePoint, number: int, units: slice, block: slice) -> None:
        self._at, self._number, self._units, self._block = at, number, units, block
        self._activation = at.activation(number)
        a = np.ascontiguousarray(at.preactivations[number][block, units])
        self._a = a
        # No pre-activation of the example is shifted further.
        reach = at.scheme.reach * at.h * at.farthest_inputs[number][block][:, None]
        self._farthest = float(reach.max())
        slope = self._activation.slope(a)
        kinds, t_max = self._kinds(slope, reach)
        self._kinks: dict[int, Kinks] = {}
        self._found_directions: Array | None = None
        self._compiled: list[tuple[Any, tuple[Any, ...]]] = []
        # Examples and units that NumPy follows, along a direction or through the later layers.
        self._by_numpy: Mask | None = None
        self._pushed: Mask | None = None
        others = self._not_in_proportion(kinds, t_max)
        if others is not None:
            kinds[others] = _STILL
        if (kinds == _BENT).any():
            self._compile(kinds == _BENT, t_max, self._activation.move)
        self._compile(kinds == _STRAIGHT, t_max, _LINE, slope)
        if others is not None:
            kinked = self._few_kinks(others)
            self._compile_kinks(kinked, t_max)
            if not self._compile_series(others, t_max):
                self._compile_push(others & ~kinked, t_max)

    def _kinds(self, slope: Array, reach: Array) -> tuple[NDArray[np.int8], Array]:
        """Which units move, and how, and how far their outputs do at most; shape ``(n_examples, n_units)``."""
        from distnum.networks.propagation import passes

        a = self._a
        kinds, t_max = np.empty(a.shape, np.int8), np.empty_like(a)
        n_bent = np.zeros(1, np.int64)
        passes.classify(slope, self._activation.kink_distance(a), reach, kinds, t_max, n_bent)
        if n_bent[0] == a.size:
            t_max = self._farthest_change(a, reach)
            kinds[t_max == 0] = _STILL
        elif n_bent[0]:
            bent = np.nonzero(kinds == _BENT)
            t_max[bent] = farthest = self._farthest_change(a[bent], reach[bent[0], 0])
            kinds[bent] = np.where(farthest == 0, _STILL, _BENT)
        return kinds, t_max

    def _farthest_change(self, a: Array, reach: Array) -> Array:
        """The largest change of units that are not straight, or a bound of it."""
        if np.isfinite(self._activation.steepest) and not self._activation.piecewise_linear:
            # A bound serves as well.
            return self._activation.steepest * np.broadcast_to(reach, a.shape)
        if not self._activation.monotone:
            return np.full_like(a, np.inf)
        change = self._activation.change
        return np.maximum(np.abs(change(a, reach)), np.abs(change(a, -reach)))

    # --- which units --------------------------------------------------------------

    def _not_in_proportion(self, kinds: NDArray[np.int8], t_max: Array) -> Mask | None:
        """Moving units with which the outputs do not move in proportion; None if there are none."""
        at = self._at
        if self._number >= at.last - 1:
            return None
        if not self._activation.piecewise_linear:
            return kinds != _STILL
        layers = [
            LaterLayer(self._into(later), self._sizes_into(later), at.preactivations[later][self._block])
            for later in range(self._number + 1, at.last)
        ]
        straight, self._kinks = later_kinks(layers, at.weights[at.last], self._activation, t_max)
        return None if straight is None else (kinds != _STILL) & ~straight

    def _few_kinks(self, others: Mask) -> Mask:
        """Of units with which the outputs do not move in proportion those for which just a few later units bend."""
        few = [example for example, kinks in self._kinks.items() if len(kinks.slopes) <= _MOST_KINKS]
        chosen = np.zeros_like(others)
        chosen[few] = others[few]
        return chosen

    @property
    def _directions(self) -> Array:
        """How the outputs move with each unit: ``(n_outputs, n_units)``, or ``(n_examples, n_outputs, n_units)``."""
        # Not a cached_property: before Python 3.12 one lock would hold all threads' moves.
        if self._found_directions is None:
            self._found_directions = self._find_directions()
        return self._found_directions

    def _find_directions(self) -> Array:
        at, number = self._at, self._number
        if number == at.last:
            return np.eye(at.network.n_outputs, dtype=at.dtype)[:, self._units]
        response = np.ascontiguousarray(self._into(at.last).T)
        for later in range(at.last - 1, number, -1):
            slope = at.network.activation.slope(at.preactivations[later][self._block])
            response = slope[:, None] * response
            n_examples, n_outputs, n_units = response.shape
            # One product for all examples and outputs.
            response = (response.reshape(-1, n_units) @ self._into(later).T).reshape(n_examples, n_outputs, -1)
        return response

    def _into(self, number: int) -> Array:
        """Weights of a later layer, of its inputs that depend on the units: of the next one those of the units."""
        weights = self._at.weights[number]
        return weights[self._units] if number == self._number + 1 else weights

    def _sizes_into(self, number: int) -> Array:
        sizes = self._at.weight_sizes[number]
        return sizes[self._units] if number == self._number + 1 else sizes

    # --- units that a compiled loop follows ------------------------------------------

    def _compile(self, chosen: Mask, t_max: Array, move: Move | None, slope: Array | None = None) -> None:
        """Find the loop for these units and lay out what it reads; ``slope`` of those on a straight line."""
        if not chosen.any():
            return
        if move is None or self._farthest > move.largest:
            self._by_numpy = chosen if self._by_numpy is None else self._by_numpy | chosen
            return
        from distnum.networks.propagation import kernels, passes

        at, v = self._at, self._directions
        v = v if v.ndim == 3 else v[None]
        largest = np.zeros(1, at.dtype)
        passes.largest_move(chosen, t_max, v, largest)
        symmetric = at.scheme.symmetric and slope is not None
        length = at.loss.length(float(largest[0]), symmetric)
        symmetric = symmetric and length is not None
        # Where a unit that is not chosen would still be computed, its move must not be NaN.
        n_chosen = np.count_nonzero(chosen)
        may_be_dense = (slope is not None or n_chosen == chosen.size) and length is not None
        compact = not may_be_dense or 3 * n_chosen < chosen.size
        constants = [] if symmetric else self._constants(move, slope)
        n_terms = 0 if length is None else length.n_terms
        examples, counts, units, data = layout = side_by_side(chosen, constants, at.dtype, compact, n_more=1 + n_terms)
        scales = slope if symmetric and slope is not None else np.empty((0, 0), at.dtype)
        passes.series_kernel(at.network.loss_function.name, n_terms)(
            at.loss.factors[self._block],
            at.loss.labels[self._block],
            v,
            scales,
            examples,
            chosen[examples],
            units if compact else units[:0],
            counts,
            data,
            len(constants),
        )
        more: tuple[Array, ...] = ()
        if length is None:
            kernel = kernels.outputs_kernel(move.kind)
            of_examples = v[examples] if len(v) > 1 else v
            more = at.loss.factors[self._block][examples], np.ascontiguousarray(of_examples)
        elif symmetric:
            kernel = kernels.straight_kernel(*length, compact)
        else:
            kernel = kernels.bent_kernel(move.kind, *length, count_log_terms(move, self._farthest, at.dtype), compact)
        self._compiled.append((kernel, (*layout, *more)))

    def _constants(self, move: Move, slope: Array | None) -> tuple[Array, Array]:
        return move.constants(self._a if slope is None else slope)

    def _compile_kinks(self, chosen: Mask, t_max: Array) -> None:
        """Lay out what the compiled loop over units for which later ones bend reads."""
        if not chosen.any():
            return
        from distnum.networks.propagation import kernels

        at, move = self._at, self._activation.move
        assert move is not None  # none but those of the project have straight pieces
        examples, counts, units, data = side_by_side(
            chosen, move.constants(self._a), at.dtype, compact=True, grouped=False
        )
        found = [self._kinks[example] for example in examples.tolist()]
        constants = [np.stack(move.constants(kinks.preactivations)) for kinks in found]
        _, length = self._lengths(chosen, t_max)
        kernel = kernels.kinks_kernel(str(move.kind), at.network.loss_function.name, *length)
        more = (
            np.ascontiguousarray(self._directions[examples]),
            np.array([len(kinks.slopes) for kinks in found]),
            padded_stack(constants),
            padded_stack([kinks.slopes for kinks in found]),
            padded_stack([kinks.to_units for kinks in found]),
            padded_stack([kinks.to_kinks for kinks in found]),
            padded_stack([kinks.to_outputs for kinks in found]),
            at.loss.factors[self._block][examples],
            at.loss.labels[self._block][examples],
        )
        self._compiled.append((kernel, (examples, counts, units, data, *more)))

    def _lengths(self, chosen: Mask, t_max: Array) -> tuple[float, SeriesLength]:
        """How far pre-activations are shifted at most, and the terms of all series in a loop through later layers."""
        farthest, largest = self._farthest_shifts(float(np.where(chosen, t_max, 0).max()))
        # One length for all, and not the shortest: few loops need be compiled.
        of_move, of_loss = series_length(farthest, self._at.dtype), self._at.loss.length(largest, symmetric=False)
        return farthest, max(SeriesLength(5, 3), of_move, of_loss) if of_move and of_loss else SeriesLength(0, 0)

    def _compile_series(self, chosen: Mask, t_max: Array) -> bool:
        """Lay out what the compiled loop over units whose moves have a series reads, if they have a short one."""
        at, number, move = self._at, self._number, self._activation.move
        if self._activation.taylor is None or move is None or self._farthest > move.largest:
            return False
        from distnum.networks.propagation import taylor

        weights = [self._into(later) for later in range(number + 1, at.last + 1)]
        preactivations = [at.preactivations[later][self._block] for later in range(number + 1, at.last)]
        farthest = float(t_max.max())
        for n_terms in _SERIES_TERMS:
            # The coefficients would have to fall, which they do where weights are small: not worth a try.
            if farthest**n_terms > np.finfo(at.dtype).eps and n_terms < _SERIES_TERMS[-1]:
                continue
            deltas = taylor.output_series(weights, preactivations, self._activation, n_terms + _TERMS_BEYOND)
            factors, labels = at.loss.factors[self._block], at.loss.labels[self._block]
            series = taylor.loss_series(deltas, at.network.loss_function.name, factors, labels)
            if taylor.enough_terms(series, t_max, n_terms):
                break
        else:
            return False
        from distnum.networks.propagation import kernels

        fields = [*move.constants(self._a), np.zeros_like(self._a), *series[:n_terms]]
        compact = 3 * np.count_nonzero(chosen) < chosen.size
        kernel = kernels.bent_kernel(move.kind, n_terms, 0, count_log_terms(move, self._farthest, at.dtype), compact)
        self._compiled.append((kernel, side_by_side(chosen, fields, at.dtype, compact)))
        return True

    def _compile_push(self, chosen: Mask, t_max: Array) -> None:
        """Lay out what the compiled push reads, if it can follow these units."""
        if not chosen.any():
            return
        at, number, move = self._at, self._number, self._activation.move
        farthest, length = self._lengths(chosen, t_max)
        if move is None or not farthest <= move.largest:
            self._pushed = chosen
            return
        from distnum.networks.propagation import kernels

        examples, counts, units, data = side_by_side(
            chosen, move.constants(self._a), at.dtype, compact=True, grouped=False
        )
        kernel = kernels.push_kernel(move.kind, at.network.loss_function.name, *length)
        here = slice(self._block.start, self._block.stop)
        later = [
            np.stack(move.constants(at.preactivations[layer][here][examples]), axis=1)
            for layer in range(number + 1, at.last)
        ]
        layers = at.network.layers[number + 1 :]
        starts = [layer.start for layer in layers]
        starts[0] += self._units.start * layers[0].n_out
        more = (
            at.params,
            np.array(starts),
            np.array([layer.n_out for layer in layers]),
            np.concatenate(later, axis=2),
            at.loss.factors[here][examples],
            at.loss.labels[here][examples],
        )
        self._compiled.append((kernel, (examples, counts, units, data, *more)))

    def _farthest_shifts(self, t_max: float) -> tuple[float, float]:
        """How far pre-activations of this and later layers, and outputs, are shifted at most by a unit's ``t_max``."""
        at, steepest = self._at, self._activation.steepest
        if not np.isfinite(steepest):
            return np.inf, np.inf
        bound = t_max * at.weight_sizes[self._number + 1][self._units].max(axis=0)
        farthest = self._farthest
        for later in range(self._number + 2, at.last + 1):
            farthest = max(farthest, float(bound.max()))
            bound = (steepest * bound) @ at.weight_sizes[later]
        return farthest, float(bound.max())

    def add(self, rows: NDArray[np.int64], total: Array) -> None:
        """Add the weighted changes of the loss, summed over the examples.

        Args:
            rows: of the layer.
            total: shape ``(len(rows), n_columns(n_units))``; what is beyond the units is scratch.
        """
        at = self._at
        pairs = at.scheme.pairs
        points = np.array([pair[:2] for pair in pairs], at.dtype) * at.h
        weights = np.array([pair[2] for pair in pairs], at.dtype)
        inputs = at.inputs[self._number]
        for kernel, (examples, counts, units, data, *more) in self._compiled:
            examples = examples + self._block.start
            kernel(inputs, rows, points, weights, examples, counts, units, data, total, *more)
        for chosen, to_loss in ((self._by_numpy, self._along), (self._pushed, self._push)):
            for example in np.flatnonzero(chosen.any(axis=1)).tolist() if chosen is not None else ():
                assert chosen is not None
                z, units = inputs[rows, self._block.start + example], np.flatnonzero(chosen[example])
                self._add_one_by_one(example, units, to_loss, z, points, weights, total)

    # --- units that NumPy follows -----------------------------------------------------

    def _add_one_by_one(
        self,
        example: int,
        units: NDArray[np.intp],
        to_loss: Callable[[int, NDArray[np.intp], Array], Array],
        z: Array,
        points: Array,
        weights: Array,
        total: Array,
    ) -> None:
        moved = np.flatnonzero(z)
        a = self._a[example, units, None]
        size = max(1, _PUSH_NUMBERS // (2 * len(units) * self._at.network.n_outputs))
        for start in range(0, len(moved), size):
            columns = moved[start : start + size]
            for (first, second), weight in zip(points, weights, strict=True):
                shifts = np.concatenate([first * z[columns], second * z[columns]])
                changes = to_loss(example, units, self._activation.change(a, shifts))
                difference = changes[:, : len(columns)] - changes[:, len(columns) :]
                total[columns[:, None], units] += weight * difference.T

    def _along(self, example: int, units: NDArray[np.intp], t: Array) -> Array:
        """Change of an example's loss when units that it follows in proportion move by ``t``, ``(n_units, n_t)``."""
        directions = self._directions if self._directions.ndim == 2 else self._directions[example]
        delta = t[:, :, None] * directions[:, units].T[:, None, :]
        changes = self._at.loss.change(self._block.start + example, delta.reshape(-1, delta.shape[2]))
        return changes.reshape(t.shape)

    def _push(self, example: int, units: NDArray[np.intp], t: Array) -> Array:
        """The same for units whose change goes through the later layers as it is."""
        at, number = self._at, self._number
        example += self._block.start
        changes = np.zeros_like(t)
        unit_of, point_of = np.nonzero(t)
        sizes = at.network.sizes
        size = max(_PUSH_ROWS, _PUSH_NUMBERS // max(sizes[number + 2 :]) // _PUSH_ROWS * _PUSH_ROWS)
        for start in range(0, len(unit_of), size):
            unit, point = unit_of[start : start + size], point_of[start : start + size]
            padded = -(-len(unit) // _PUSH_ROWS) * _PUSH_ROWS
            change = np.zeros((padded, sizes[number + 2]), at.dtype)
            change[: len(unit)] = t[unit, point][:, None] * self._into(number + 1)[units[unit]]
            for later in range(number + 2, at.last + 1):
                a = at.preactivations[later - 1][example]
                change = at.network.activation.change(a, change)
                stacked = change.reshape(-1, _PUSH_ROWS, change.shape[1])
                change = (stacked @ at.weights[later]).reshape(padded, -1)
            changes[unit, point] = at.loss.change(example, change[: len(unit)])
        return changes
