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
   is always so: the vector is the unit's row of the last weights. Where a few units after it
   are taken over a kink, what each moves by beyond its line is added (``kinks.py``).
4. Where all later layers are smooth, the loss is a series in ``t``, found once for the pair of
   example and unit (``series.py``). Elsewhere the change is pushed through the layers that remain.
5. The loss says how it changes when the outputs move so (``losses.py``), the scheme
   combines the changes at its points, and the examples are added up.

Every parameter is moved by the step ``h`` and nothing is linearised: the result is the
finite difference itself, without the rounding error of subtracting two losses.

A row's partial derivatives do not depend on which other rows are computed in the same
call: all arithmetic is elementwise and the examples are added in their order, and the
products of matrices have the same shapes for every shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.differentiation.schemes import get_scheme
from distnum.networks.dense import Network
from distnum.networks.propagation.base_point import BasePoint
from distnum.networks.propagation.forward import _SPARSE, Forward, example_blocks, size_of
from distnum.networks.propagation.kernel_inputs import n_columns
from distnum.networks.propagation.routes import UnitRoutes
from distnum.networks.propagation.threads import Portion, follow, on_threads
from distnum.workers.ray_pool.shared_memory import Peers
from distnum.workers.tiles import Shard, Tiles, even_tiles, indices_of

__all__ = ["Propagation", "PropagationPoint"]

# Tiles a layer is cut into: enough for hundreds of workers to be kept evenly busy.
_TILES_PER_LAYER = 400

# Units in a group at most: what is prepared for them is shared by workers in so small portions,
# and a loop over them is still long.
_GROUP_UNITS = 128

# The same where a series is found for each of them, which takes as long as the loop.
_SERIES_UNITS = 64

# What one of its multiplications costs, beside following a move.
_SERIES_COST = 0.3

# Moves (example, input, unit) that a thread is worth being woken for.
_THREAD_MOVES = 100_000


@dataclass(frozen=True)
class UnitGroup:
    """Some units of a layer, and its rows cut into tiles.

    Attributes:
        number: of the layer.
        units: of the layer.
        rows: boundaries of the tiles in the layer's rows, shape ``(n_tiles + 1,)``.
        first_tile: the number of the first of them.
    """

    number: int
    units: slice
    rows: Tiles
    first_tile: int

    @property
    def n_units(self) -> int:
        return int(self.units.stop - self.units.start)


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
    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """Units of the layers, so many together that a worker with some of their tiles prepares just these."""
        found: list[UnitGroup] = []
        first_tile = 0
        for number, layer in enumerate(self.network.layers):
            n_groups = -(-layer.n_out // self._units_together(number))
            rows = even_tiles(layer.n_rows, -(-_TILES_PER_LAYER // n_groups))
            for start, stop in pairwise(even_tiles(layer.n_out, n_groups).tolist()):
                found.append(UnitGroup(number, slice(start, stop), rows, first_tile))
                first_tile += len(rows) - 1
        return tuple(found)

    def _units_together(self, number: int) -> int:
        """Units of a layer that are prepared together at most."""
        followed_by_series = number < len(self.network.layers) - 2 and self.network.activation.taylor is not None
        return _SERIES_UNITS if followed_by_series else _GROUP_UNITS

    @cached_property
    def tiles(self) -> Tiles:
        """Boundaries of the tiles, some rows of a layer at a group of its units each; shape ``(n_tiles + 1,)``."""
        sizes = [np.diff(group.rows) * group.n_units for group in self.unit_groups]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])

    @cached_property
    def order(self) -> NDArray[np.int64] | None:
        layers = self.network.layers
        if len(self.unit_groups) == len(layers):
            return None
        indices = [np.arange(layer.start, layer.stop).reshape(layer.n_rows, layer.n_out) for layer in layers]
        return np.concatenate([indices[group.number][:, group.units].ravel() for group in self.unit_groups])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        n_tiles = [len(group.rows) - 1 for group in self.unit_groups]
        return np.repeat(np.arange(len(n_tiles)), n_tiles)

    def tile_costs(self, pairs: Sequence[NDArray[np.integer]]) -> NDArray[np.float64]:
        """Costs of the tiles, from how many examples move each row of each layer.

        The moves ``(example, input, unit)`` that are not zero, times the units that each has to
        be followed through; where a series is found for a unit first, its moves share what that costs.
        """
        before = [np.concatenate([np.zeros(1), np.cumsum(n_examples)]) for n_examples in pairs]
        return np.concatenate(
            [
                np.diff(before[group.number][group.rows])
                * (group.n_units * self._cost_of_move(group.number, pairs[group.number]))
                for group in self.unit_groups
            ]
        )

    def _cost_of_move(self, number: int, n_examples: NDArray[np.integer]) -> float:
        later = self.network.sizes[number + 2 :]
        if self.network.activation.piecewise_linear:
            return 1
        if self.network.activation.taylor is None:
            return 1 + sum(later[:-1])
        # The bias is moved by all examples.
        share = float(n_examples[-1]) / max(float(n_examples.sum()), 1.0)
        return 1 + _SERIES_COST * sum(n_in * n_out for n_in, n_out in pairwise(later)) * share

    def expected_costs(
        self, batch: tuple[Array, NDArray[np.generic]], before: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Of the first layer what the batch says; of the others what was before, or all moves."""
        x, _ = batch
        pairs = [np.full(layer.n_rows, len(x)) for layer in self.network.layers]
        pairs[0][:-1] = np.count_nonzero(x, axis=0)
        costs = self.tile_costs(pairs)
        if before is not None:
            n_first = sum(len(group.rows) - 1 for group in self.unit_groups if group.number == 0)
            costs[n_first:] = before[n_first:]
        return costs

    def param_name(self, index: int) -> str:
        return self.network.param_name(index)

    thread_safe = True

    def shareable(self, batch: tuple[Array, NDArray[np.generic]], dtype: DTypeLike) -> tuple[int, int]:
        """The forward pass: its blocks, and the bytes of all that it goes through."""
        n_examples = len(batch[0])
        return len(example_blocks(n_examples)), size_of(Forward.parts(self.network, n_examples, dtype))

    def at(
        self,
        params: Array,
        batch: tuple[Array, NDArray[np.generic]],
        n_threads: int = 1,
        others: Peers | None = None,
    ) -> PropagationPoint:
        """One forward pass; what it gives can be asked for any tile's slice."""
        x, y = batch
        with np.errstate(over="ignore", invalid="ignore"):  # whoever asked checks what is finite
            passed = self._forward(params, np.ascontiguousarray(x, params.dtype), n_threads, others)
            return PropagationPoint(self, params, passed, y, n_threads)

    def _forward(self, params: Array, x: Array, n_threads: int, others: Peers | None) -> Forward:
        from distnum.networks.propagation import passes

        layers = self.network.layers
        # In blocks whatever the number of threads: how a product rounds may depend on its shape.
        blocks = example_blocks(len(x))
        if others is not None and (n_threads > 1 or not others.fits(*self.shareable((x, x), params.dtype))):
            others = None
        passed = Forward.empty(self.network, len(x), params.dtype, None if others is None else others.memory)
        sparse = np.count_nonzero(x[blocks[0]]) < _SPARSE * x[blocks[0]].size

        def forward(index: int) -> None:
            """A block of examples. What others may read meanwhile is written once, as it stays."""
            block = blocks[index]
            z = x[block]
            for number, layer in enumerate(layers):
                rows = layer.rows(params)
                farthest, counts = np.empty(len(z), z.dtype), np.empty(layer.n_rows, np.int64)
                passes.take_in(z, passed.inputs[number][:, block], farthest, counts)
                passed.farthest[number][block], passed.counts[number][index] = farthest, counts
                if number == 0 and sparse:
                    a = np.empty((len(z), layer.n_out), z.dtype)
                    passes.sparse_product(z, rows[:-1], rows[-1], a)
                else:
                    a = z @ rows[:-1]
                    a += rows[-1]
                passed.preactivations[number][block] = a
                z = self.network.activation.value(a)

        if others is None:
            on_threads(n_threads, forward, range(len(blocks)))
        else:
            others.find(len(blocks), forward)
        return passed


class PropagationPoint:
    """A network at some parameters and batch, ready to be differenced.

    Attributes:
        loss: the mean loss of the batch.
        costs: of the tiles, shape ``(n_tiles,)``.
        group_s: seconds that the tiles of each group of units have taken.
    """

    def __init__(
        self,
        objective: Propagation,
        params: Array,
        passed: Forward,
        targets: NDArray[np.generic],
        n_threads: int,
    ) -> None:
        preactivations = passed.preactivations
        self._n_threads = n_threads
        self._objective = objective
        self._network = network = objective.network
        self._n_examples = len(targets)
        self.group_s = np.zeros(len(objective.unit_groups))
        self._base = BasePoint(
            network=network,
            scheme=objective.scheme,
            h=params.dtype.type(objective.h),
            params=params,
            inputs=passed.inputs,
            preactivations=preactivations,
            farthest_inputs=passed.farthest,
            loss=network.loss_function.at(preactivations[-1], targets),
        )
        # For each layer how many examples move each of its rows.
        self._pairs = [counts.sum(axis=0) for counts in passed.counts]
        self.loss = float(network.loss_function.values(preactivations[-1], targets).mean())

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        return self._objective.tile_costs(self._pairs)

    def grad_slice(self, shard: Shard, grad: Array) -> None:
        """Put the numerical gradient at the indices of a shard where it belongs in ``grad``, shape ``(n_params,)``."""
        portions, places = [], []
        for number, group in enumerate(self._objective.unit_groups):
            tiles = shard - group.first_tile
            tiles = tiles[(tiles >= 0) & (tiles < len(group.rows) - 1)]
            if tiles.size:
                rows = indices_of(group.rows, tiles)
                portions.append(self._portion(number, group, rows))
                places.append((self._network.layers[group.number].rows(grad)[:, group.units], rows))
        follow(portions, self._n_threads, self.group_s)
        divisor = self._base.scheme.denominator * self._base.h * self._n_examples
        for portion, (of_units, rows) in zip(portions, places, strict=True):
            total = portion.total[:, : portion.n_units]
            if len(rows) == len(of_units):
                np.divide(total, divisor, out=of_units)
            else:
                of_units[rows] = total / divisor

    def _portion(self, number: int, group: UnitGroup, rows: NDArray[np.int64]) -> Portion:
        """Some rows of a layer at a group of its units."""
        pairs = np.cumsum(self._pairs[group.number][rows])
        n_parts = min(self._n_threads, 1 + int(pairs[-1]) * group.n_units // _THREAD_MOVES)
        cuts = np.searchsorted(pairs, pairs[-1] * np.arange(1, n_parts) / n_parts)
        return Portion(
            number,
            group.n_units,
            np.zeros((len(rows), n_columns(group.n_units)), self._base.dtype),
            np.split(rows, cuts),
            [
                partial(UnitRoutes, self._base, group.number, group.units, block)
                for block in self._base.blocks(group.number, group.n_units)
            ],
        )
