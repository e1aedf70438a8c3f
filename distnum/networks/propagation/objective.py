"""Difference propagation: the numerical gradient of a network without a forward pass for each parameter.

Shifting one weight ``W_l[i, j]`` by ``s`` shifts one pre-activation of each example ``b``, by
``s * z[b, i]``, where ``z`` is the layer's input (a bias is a weight of an input that is always
one). Nothing before it changes. So the change is followed instead of the value:

1. Where ``z[b, i]`` is zero nothing changes, and the pair of example and input is skipped.
2. The unit's output changes by ``t = f(a + s z) - f(a)``. Where ``f`` is a straight line over the
   whole step, ``t`` is the slope times the shift; where the slope is zero the unit is skipped.
3. Where every later unit stays on its straight line too, the outputs change by ``t`` times one
   vector for the pair of example and unit. After the last hidden layer that is always so: the
   vector is the unit's row of the last weights. If a few later units are taken over a kink, their
   changes beyond their lines are added (``kinks.py``).
4. Where all later layers are smooth, the loss is a series in ``t``, computed once for the pair of
   example and unit (``taylor.py``). Otherwise the change is pushed through the remaining layers
   (``push.py``).
5. The loss gives its change from the changes of the outputs (``losses.py``), the scheme combines
   the changes at its points, and the examples are summed.

Every parameter is shifted by the step ``h`` and nothing is linearised: the result is the finite
difference itself, without the rounding error of subtracting two losses.

The partial derivatives of a row do not depend on which other rows are computed in the same call:
all arithmetic is elementwise, examples are added in their order, and matrix products have the same
shapes for every shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.arrays import Array
from distnum.common.checks import checked, choice
from distnum.differentiation.stencils.schemes import SCHEMES
from distnum.networks.dense import Network
from distnum.networks.propagation.base_point import BasePoint
from distnum.networks.propagation.forward import Forward, forward_pass, shared_blocks
from distnum.networks.propagation.threads import Portion, follow
from distnum.workers.tiles import Shard, Tiles, even_tiles, indices_of
from distnum.workers.work import Peers

__all__ = ["Propagation", "PropagationPoint"]

_Batch: TypeAlias = tuple[Array, NDArray[np.generic]]
"""Inputs, shape ``(n, n_inputs)``, and targets."""

# Tiles of one layer: enough to balance the load of hundreds of workers.
_TILES_PER_LAYER = 400

# Most units in a group. A worker prepares whole groups, so groups are small enough to be divided
# among workers and large enough for long inner loops.
_GROUP_UNITS = 128

# The same where a Taylor series is computed for each unit, which takes as long as the loop.
_SERIES_UNITS = 64

# Cost of one multiplication of a series, relative to following one shift.
_SERIES_COST = 0.3

# Shifts (example, input, unit) that make it worth waking a thread.
_THREAD_SHIFTS = 100_000


@dataclass(frozen=True)
class UnitGroup:
    """Units of one layer that are prepared together, with the layer's rows cut into tiles.

    Attributes:
        number: Number of the layer, counted from 0.
        units: Range of the layer's units.
        rows: Boundaries of the tiles in the layer's rows, shape ``(n_tiles + 1,)``.
        first_tile: Number of the group's first tile.
    """

    number: int
    units: slice
    rows: Tiles
    first_tile: int

    @property
    def n_units(self) -> int:
        return int(self.units.stop - self.units.start)


class Propagation:
    """Finite differences of a network's loss, by propagation.

    Args:
        network: The network.
        scheme: Name of the finite-difference scheme.
        h: Step of every parameter.
    """

    thread_safe = True
    answer_shape = ()

    def __init__(self, network: Network, scheme: str = "central", h: float = 1e-4) -> None:
        self.network, self.h = network, h
        self.scheme = SCHEMES[checked("scheme", scheme, choice(*SCHEMES))]
        self.n_params, self.param_name = network.n_params, network.param_name

    @property
    def n_evaluations(self) -> int:
        """Number of losses that one gradient stands for: one for every parameter and point of the stencil."""
        return self.n_params * len(self.scheme.offsets)

    # --- tiles and their costs ------------------------------------------------------

    @cached_property
    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """The groups of units of all layers."""
        groups: list[UnitGroup] = []
        first_tile = 0
        for number, layer in enumerate(self.network.layers):
            n_groups = -(-layer.n_out // self._units_together(number))
            rows = even_tiles(layer.n_rows, -(-_TILES_PER_LAYER // n_groups))
            for start, stop in pairwise(even_tiles(layer.n_out, n_groups).tolist()):
                groups.append(UnitGroup(number, slice(start, stop), rows, first_tile))
                first_tile += len(rows) - 1
        return tuple(groups)

    def _units_together(self, number: int) -> int:
        """Largest number of units in a group of a layer."""
        with_series = number < len(self.network.layers) - 2 and self.network.activation.taylor is not None
        return _SERIES_UNITS if with_series else _GROUP_UNITS

    @cached_property
    def tiles(self) -> Tiles:
        """Boundaries of the tiles, shape ``(n_tiles + 1,)``. A tile is some rows of a layer at one group of units."""
        sizes = [np.diff(group.rows) * group.n_units for group in self.unit_groups]
        return np.cumsum(np.concatenate([[0], *sizes]))

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

    def tile_costs(self, n_moving: Sequence[NDArray[np.integer]]) -> NDArray[np.float64]:
        """Costs of the tiles, shape ``(n_tiles,)``.

        A cost is the number of shifts ``(example, input, unit)`` that are not zero, times the number
        of units that each is followed through. The shifts into a unit share the cost of its series.

        Args:
            n_moving: For each layer, the number of examples in which each row's input is not zero.
        """
        return np.concatenate(
            [
                np.add.reduceat(n_moving[group.number], group.rows[:-1])
                * (group.n_units * self._cost_of_shift(group.number, n_moving[group.number]))
                for group in self.unit_groups
            ]
        )

    def _cost_of_shift(self, number: int, n_examples: NDArray[np.integer]) -> float:
        later = self.network.sizes[number + 2 :]
        if self.network.activation.piecewise_linear:
            return 1.0
        if self.network.activation.taylor is None:
            return 1.0 + sum(later[:-1])
        # The bias, the last row, moves in all examples.
        share = float(n_examples[-1]) / max(float(n_examples.sum()), 1.0)
        return 1 + _SERIES_COST * sum(n_in * n_out for n_in, n_out in pairwise(later)) * share

    def expected_costs(self, batch: _Batch, before: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Expected costs of the tiles, shape ``(n_tiles,)``.

        First layer: counted from the batch. Others: the costs ``before``, or as if no input were zero.
        """
        x, _ = batch
        n_moving = [np.full(layer.n_rows, len(x)) for layer in self.network.layers]
        n_moving[0][:-1] = np.count_nonzero(x, axis=0)
        costs = self.tile_costs(n_moving)
        if before is not None:
            n_first = sum(len(group.rows) - 1 for group in self.unit_groups if group.number == 0)
            costs[n_first:] = before[n_first:]
        return costs

    # --- points ---------------------------------------------------------------------

    def shared_blocks(self, batch: _Batch, dtype: DTypeLike) -> tuple[int, int]:
        return shared_blocks(self.network, len(batch[0]), dtype)

    def at(self, params: Array, batch: _Batch, n_threads: int = 1) -> PropagationPoint:
        """Make one forward pass; the point then computes any tile."""
        return self.at_with_peers(params, batch, n_threads, None)

    def at_with_peers(self, params: Array, batch: _Batch, n_threads: int, peers: Peers | None) -> PropagationPoint:
        x, y = batch
        # Arrays from Ray are read-only, others are not, and Numba compiles for each: make all read-only.
        params = params.view()
        params.flags.writeable = False
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that results are finite
            passed = forward_pass(self.network, params, np.ascontiguousarray(x, params.dtype), n_threads, peers)
            return PropagationPoint(self, params, passed, y, n_threads)


class PropagationPoint:
    """A network at some parameters and a batch, after its forward pass.

    Attributes:
        value: Mean loss of the batch.
        group_s: Seconds spent so far on the tiles of each group of units, shape ``(n_groups,)``.
    """

    def __init__(
        self, objective: Propagation, params: Array, passed: Forward, targets: NDArray[np.generic], n_threads: int
    ) -> None:
        network, outputs = objective.network, passed.preactivations[-1]
        self._objective, self._n_threads, self._n_examples = objective, n_threads, len(targets)
        self.group_s = np.zeros(len(objective.unit_groups))
        self._base = BasePoint(
            network=network,
            scheme=objective.scheme,
            h=params.dtype.type(objective.h),
            params=params,
            inputs=passed.inputs,
            preactivations=passed.preactivations,
            farthest_inputs=passed.farthest,
            loss=network.loss_function.at(outputs, targets),
        )
        self._n_moving = [counts.sum(axis=0) for counts in passed.counts]
        self.value = float(network.loss_function.values(outputs, targets).mean())

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        return self._objective.tile_costs(self._n_moving)

    def compute(self, shard: Shard, answers: Array) -> None:
        portions, targets = [], []
        for number, group in enumerate(self._objective.unit_groups):
            tiles = shard - group.first_tile
            tiles = tiles[(tiles >= 0) & (tiles < len(group.rows) - 1)]
            if tiles.size:
                rows = indices_of(group.rows, tiles)
                portions.append(self._portion(number, group, rows))
                layer = self._base.network.layers[group.number]
                targets.append((layer.rows(answers)[:, group.units], rows))
        follow(portions, self._n_threads, self.group_s)
        divisor = self._base.scheme.denominator * self._base.h * self._n_examples
        for portion, (target, rows) in zip(portions, targets, strict=True):
            total = portion.total[:, : portion.n_units]
            if len(rows) == len(target):
                np.divide(total, divisor, out=target)
            else:
                target[rows] = total / divisor

    def _portion(self, number: int, group: UnitGroup, rows: NDArray[np.int64]) -> Portion:
        """Some rows of a layer at one group of units, as work for threads."""
        from distnum.networks.propagation.kernel_inputs import n_columns
        from distnum.networks.propagation.routes import UnitRoutes

        shifts = np.cumsum(self._n_moving[group.number][rows])
        n_parts = min(self._n_threads, 1 + int(shifts[-1]) * group.n_units // _THREAD_SHIFTS)
        cuts = np.searchsorted(shifts, shifts[-1] * np.arange(1, n_parts) / n_parts)
        return Portion(
            number,
            group.n_units,
            np.zeros((len(rows), n_columns(group.n_units)), self._base.dtype),
            np.split(rows, cuts),
            [
                partial(UnitRoutes, self._base, group.number, group.units, examples)
                for examples in self._base.blocks(group.number, group.n_units)
            ],
        )
