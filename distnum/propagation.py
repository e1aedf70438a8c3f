"""Difference propagation: the numerical gradient of a network without forward passes.

Moving one weight ``W_l[i, j]`` by ``s`` moves one pre-activation of each example ``b``, by
``s * z[b, i]``, where ``z`` is the layer's input (a bias counts as a weight of an input
that is always one). Nothing before it moves. So the change is followed, not the value:

1. Where ``z[b, i]`` is zero nothing moves; the pair of example and input is skipped.
2. The unit's output moves by ``t = f(a + s z) - f(a)``. Where ``f`` is a straight line as
   far as this step reaches, ``t`` is the slope times the shift; where the slope is zero
   the unit is skipped.
3. Where every unit after it stays on its straight line too, the outputs move by ``t``
   times one vector for the pair of example and unit. After the last hidden layer that
   is always so: the vector is the unit's row of the last weights.
4. Elsewhere (smooth activations deeper down, units near a kink) the change is pushed
   through the layers that remain.
5. The loss says how it changes when the outputs move so (``losses.py``), the scheme
   combines the changes at its points, and the examples are added up.

Every parameter is moved by the step ``h`` and nothing is linearised: the result is the
finite difference itself, without the rounding error of subtracting two losses.

A row's partial derivatives do not depend on which other rows are computed in the same
call: all arithmetic is elementwise and the examples are added in their order, and the
products of matrices have the same shapes for every shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from distnum.activations import Activation, get_activation
from distnum.losses import Along, LossPoint, Series
from distnum.networks import ForwardPass, Layer, Network
from distnum.plan import Shard, even_tiles
from distnum.schemes import Scheme, get_scheme

__all__ = ["Propagation", "PropagationPoint"]

Array = NDArray[np.floating]

# Tiles a layer is cut into at most: enough for hundreds of workers to be kept evenly busy.
_TILES_PER_LAYER = 400
# Numbers in one temporary array: a few of them fit into a core's second-level cache.
_BLOCK = 32_768
# Numbers kept for one block of examples (responses of every unit).
_EXAMPLES_BLOCK = 1_000_000
# Rows of every matrix product in a push. One shape, so that one row's bits do not depend on
# how many others are pushed beside it.
_PUSH_ROWS = 64

_OUTPUT = get_activation("identity")


class Propagation:
    """The loss of a network, differenced by propagation.

    Args:
        network: what to difference.
        scheme: name of the finite-difference scheme.
        h: the step of every parameter.
    """

    def __init__(self, network: Network, scheme: str = "central", h: float = 1e-4) -> None:
        self.network = network
        self.scheme = get_scheme(scheme)
        self.h = h

    @property
    def n_params(self) -> int:
        return self.network.n_params

    @property
    def n_evaluations(self) -> int:
        """Losses that one gradient finds: one for every parameter and point of the stencil."""
        return self.n_params * len(self.scheme.offsets)

    @cached_property
    def tiles(self) -> NDArray[np.int64]:
        """Boundaries of the tiles: whole rows of a layer, shape ``(n_tiles + 1,)``."""
        starts = [
            layer.start + even_tiles(layer.n_rows, _TILES_PER_LAYER)[:-1] * layer.n_out for layer in self.network.layers
        ]
        return np.concatenate([*starts, np.array([self.n_params])])

    def param_name(self, index: int) -> str:
        return self.network.param_name(index)

    thread_safe = True

    def at(self, params: Array, batch: tuple[Array, NDArray[np.generic]]) -> PropagationPoint:
        """One forward pass; what it gives can be asked for any tile's slice."""
        x, y = batch
        with np.errstate(over="ignore", invalid="ignore"):  # whoever asked checks what is finite
            return PropagationPoint(self, params, self.network.forward(params, x.astype(params.dtype, copy=False)), y)


class PropagationPoint:
    """A network at some parameters and batch, ready to be differenced.

    Attributes:
        loss: the mean loss of the batch.
        costs: of the tiles, shape ``(n_tiles,)``: the moves ``(example, input, unit)`` in
            each that are not zero, times the units each has to be followed through.
    """

    def __init__(
        self, objective: Propagation, params: Array, forward: ForwardPass, targets: NDArray[np.generic]
    ) -> None:
        self._network = objective.network
        self._scheme: Scheme = objective.scheme
        self._tiles = objective.tiles
        self._dtype = params.dtype
        self._h = params.dtype.type(objective.h)
        self._weights = [layer.rows(params)[:-1] for layer in self._network.layers]
        self._forward = forward
        self._n_examples = len(targets)
        self._loss_point: LossPoint = self._network.loss_function.at(forward.outputs, targets)
        self.loss = float(self._network.loss_function.values(forward.outputs, targets).mean())
        ones = np.ones((self._n_examples, 1), self._dtype)
        self._inputs = [np.hstack([z, ones]) for z in forward.inputs]

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        row_costs = []
        for number, layer in enumerate(self._network.layers):
            pairs = np.count_nonzero(self._inputs[number], axis=0)
            row_costs.append(pairs * float(layer.n_out * self._units_followed(number)))
        rows = np.concatenate([np.zeros(1), np.cumsum(np.concatenate(row_costs))])
        return np.diff(rows[self._row_boundaries])

    def _units_followed(self, number: int) -> int:
        if self._activation(number).piecewise_linear:
            return 1
        return 1 + sum(self._network.sizes[number + 2 : -1])

    @cached_property
    def _row_boundaries(self) -> NDArray[np.int64]:
        """The tiles' boundaries in rows, counted over all layers."""
        boundaries = []
        first_row = 0
        for layer in self._network.layers:
            inside = self._tiles[(layer.start <= self._tiles) & (self._tiles < layer.stop)]
            boundaries.append(first_row + (inside - layer.start) // layer.n_out)
            first_row += layer.n_rows
        return np.concatenate([*boundaries, np.array([first_row])])

    def grad_slice(self, shard: Shard) -> Array:
        """The numerical gradient at the indices of a shard, its tiles one after the other."""
        first_row, last_row = self._row_boundaries[shard], self._row_boundaries[shard + 1]
        slices = []
        layer_start = 0
        for number, layer in enumerate(self._network.layers):
            here = (first_row >= layer_start) & (first_row < layer_start + layer.n_rows)
            if here.any():
                ranges = zip(first_row[here].tolist(), last_row[here].tolist(), strict=True)
                rows = np.concatenate([np.arange(a, b) for a, b in ranges]) - layer_start
                with np.errstate(over="ignore", invalid="ignore"):
                    slices.append(self._layer_slice(number, layer, rows).ravel())
            layer_start += layer.n_rows
        if not slices:
            return np.empty(0, self._dtype)
        return np.concatenate(slices) / (self._scheme.denominator * self._h * self._n_examples)

    def _activation(self, number: int) -> Activation:
        last = number == len(self._network.layers) - 1
        return _OUTPUT if last else self._network.activation

    # --- one layer ----------------------------------------------------------------

    def _layer_slice(self, number: int, layer: Layer, rows: NDArray[np.int64]) -> Array:
        """Weighted changes of the loss, summed over the examples, shape ``(n_rows, n_out)``."""
        from distnum.kernels import StraightUnits

        inputs = self._inputs[number][:, rows]
        total = np.zeros((layer.n_out, len(rows)), self._dtype)
        of_straight = np.zeros((len(rows), layer.n_out + 1), self._dtype)
        steps = np.array(self._scheme.offsets, self._dtype) * self._h
        numerators = np.array(self._scheme.numerators, self._dtype)
        for block in self._example_blocks(number):
            moves = self._moves(number, block)
            in_series = moves.in_series
            if in_series is not None and in_series.any():
                assert isinstance(moves.along, Series)
                straight_units = StraightUnits(in_series, moves.slope, moves.along)
                by_row = np.ascontiguousarray(inputs[block].T)
                straight_units.add_changes(by_row, steps, numerators, of_straight)
            for example in range(block.stop - block.start):
                z = inputs[block.start + example]
                moved = np.flatnonzero(z)
                if moved.size == 0:
                    continue
                for units, changes in moves.others(example):
                    # A bounded number of inputs at a time.
                    size = max(1, _BLOCK // (len(units) * len(steps)))
                    for start in range(0, len(moved), size):
                        columns = moved[start : start + size]
                        delta = changes((steps[:, None] * z[columns]).ravel())
                        points = delta.reshape(len(units), len(steps), len(columns)).swapaxes(0, 1)
                        total.ravel()[units[:, None] * len(rows) + columns] += self._scheme.weigh(points)
        return of_straight[:, :-1] + total.T

    def _example_blocks(self, number: int) -> Iterator[slice]:
        largest = max(self._network.sizes[number + 1 :]) * self._network.n_outputs
        size = max(1, _EXAMPLES_BLOCK // largest)
        for start in range(0, self._n_examples, size):
            yield slice(start, min(start + size, self._n_examples))

    def _moves(self, number: int, block: slice) -> _Moves:
        """How the units of a layer move the loss, for a block of examples."""
        activation = self._activation(number)
        a = self._forward.preactivations[number][block]
        reach = self._scheme.reach * self._h * np.abs(self._inputs[number][block]).max(axis=1, keepdims=True)
        slope = activation.slope(a)
        straight = reach < activation.kink_distance(a)
        t_max = np.abs(slope) * reach
        if not straight.all():
            if activation.monotone:
                farthest = np.maximum(np.abs(activation.change(a, reach)), np.abs(activation.change(a, -reach)))
            else:
                farthest = np.full_like(a, np.inf)
            t_max = np.where(straight, t_max, farthest)
        moving = t_max > 0

        last = len(self._network.layers) - 1
        if number == last:
            directions = np.eye(self._network.n_outputs, dtype=self._dtype)
            proportional = moving
        elif number == last - 1:
            directions = self._weights[last]
            proportional = moving
        elif activation.piecewise_linear:
            directions = self._responses(number, block)
            proportional = moving & self._stays_straight(number, block, t_max)
        else:
            directions = np.zeros((1, self._network.n_outputs), self._dtype)
            proportional = np.zeros_like(moving)
        along = None
        if proportional.any():
            along = self._loss_point.along(block, directions, float(t_max[proportional].max()))
        return _Moves(self, number, block, activation, a, slope, straight, moving, proportional, along)

    def _responses(self, number: int, block: slice) -> Array:
        """How the outputs answer each unit of a layer while all later units stay straight.

        Shape ``(n_examples, n_units, n_outputs)``.
        """
        last = len(self._network.layers) - 1
        response = self._weights[last]
        for later in range(last - 1, number, -1):
            slope = self._network.activation.slope(self._forward.preactivations[later][block])
            response = self._weights[later] @ (slope[:, :, None] * response)
        return response

    def _stays_straight(self, number: int, block: slice, t_max: Array) -> NDArray[np.bool_]:
        """Whether all later units stay on their straight lines when one unit moves by ``t_max``.

        A bound that holds for all units of the layer at once leaves few later units in
        question; those are looked at one by one. Shape ``(n_examples, n_units)``.
        """
        activation = self._network.activation
        straight = np.ones(t_max.shape, np.bool_)
        finite = np.where(np.isfinite(t_max), t_max, np.finfo(t_max.dtype).max ** 0.5)
        bound = finite.max(axis=1, keepdims=True) * np.abs(self._weights[number + 1]).max(axis=0)
        slopes: list[Array] = []
        for later in range(number + 1, len(self._network.layers) - 1):
            a = self._forward.preactivations[later][block]
            # A hair less than the distance, for the rounding of the products.
            distance = activation.kink_distance(a) * a.dtype.type(1 - 1e-5)
            for example in np.flatnonzero((bound >= distance).any(axis=1)):
                near = np.flatnonzero(bound[example] >= distance[example])
                response = self._weights[later][:, near]
                for between in range(later - 1, number, -1):
                    slope = slopes[between - number - 1][example]
                    response = self._weights[between] @ (slope[:, None] * response)
                shift = finite[example][:, None] * np.abs(response)
                straight[example] &= (shift < distance[example][near]).all(axis=1)
            slopes.append(activation.slope(a))
            bound = (bound * np.abs(slopes[-1])) @ np.abs(self._weights[later + 1])
        return straight

    def push(self, number: int, example: int, units: NDArray[np.intp], t: Array) -> Array:
        """Change of an example's loss when units of a layer move by ``t``, shape ``(n_units, n_t)``."""
        delta = np.zeros_like(t)
        unit_of, point_of = np.nonzero(t)
        sizes = self._network.sizes
        size = max(_PUSH_ROWS, 8 * _BLOCK // max(sizes[number + 2 :]) // _PUSH_ROWS * _PUSH_ROWS)
        for start in range(0, len(unit_of), size):
            unit, point = unit_of[start : start + size], point_of[start : start + size]
            padded = -(-len(unit) // _PUSH_ROWS) * _PUSH_ROWS
            change = np.zeros((padded, sizes[number + 2]), self._dtype)
            change[: len(unit)] = t[unit, point][:, None] * self._weights[number + 1][units[unit]]
            for later, weights in list(enumerate(self._weights))[number + 2 :]:
                a = self._forward.preactivations[later - 1][example]
                change = self._network.activation.change(a, change)
                stacked = change.reshape(-1, _PUSH_ROWS, change.shape[1])
                change = (stacked @ weights).reshape(padded, -1)
            delta[unit, point] = self._loss_point.change(example, change[: len(unit)])
        return delta


@dataclass(frozen=True)
class _Moves:
    """How the units of one layer move the loss, for a block of examples.

    ``straight``: the unit's own activation is a straight line as far as the step reaches.
    ``proportional``: the outputs move in proportion to the unit's output.
    All of shape ``(n_examples, n_units)``.
    """

    point: PropagationPoint
    number: int
    block: slice
    activation: Activation
    a: Array
    slope: Array
    straight: NDArray[np.bool_]
    moving: NDArray[np.bool_]
    proportional: NDArray[np.bool_]
    along: Along | None

    @cached_property
    def in_series(self) -> NDArray[np.bool_] | None:
        """Units that the compiled loop takes: straight, proportional, and the loss along them a series."""
        return self.proportional & self.straight if isinstance(self.along, Series) else None

    @cached_property
    def _has_others(self) -> NDArray[np.bool_]:
        others = self.moving if self.in_series is None else self.moving & ~self.in_series
        return np.asarray(others.any(axis=1))

    def others(self, example: int) -> Iterator[tuple[NDArray[np.intp], Callable[[Array], Array]]]:
        """The groups of other units that move, each with its function of the shifts ``(n_shifts,)``."""
        if not self._has_others[example]:
            return
        a, slope = self.a[example], self.slope[example]
        straight = self.straight[example]
        proportional = self.proportional[example]
        change = self.activation.change

        if self.along is not None:
            along = partial(self.along, example)
            units = np.flatnonzero(proportional & straight)
            if units.size and self.in_series is None:
                yield units, lambda shift: along(units, slope[units, None] * shift)
            bent = np.flatnonzero(proportional & ~straight)
            if bent.size:
                yield bent, lambda shift: along(bent, change(a[bent, None], shift))

        pushed = np.flatnonzero(self.moving[example] & ~proportional)
        if pushed.size:
            push = partial(self.point.push, self.number, self.block.start + example, pushed)
            yield pushed, lambda shift: push(change(a[pushed, None], shift))
