"""Which units of several networks are alike, and which of them become one.

Likeness may come from weights (:func:`match_weights`, :func:`correlations`) or from activations:
:func:`assigned` and :func:`zipped` take a matrix of it, wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from plait.merging.pool import Array, Pool
from plait.merging.units import Axis, Units, aligned

ROUNDS = 100
GAIN = 1e-12  # a smaller gain of a round is rounding


@dataclass(frozen=True)
class Moments:
    """Sums over ``count`` samples of values [k] and of their products [k, k], in float64."""

    products: Array
    sums: Array
    count: int

    def __add__(self, other: Moments) -> Moments:
        """Those over the samples of both."""
        return Moments(
            self.products + other.products, self.sums + other.sums, self.count + other.count
        )

    def correlations(self) -> Array:
        """Correlations [k, k] of the values; one that is always the same correlates with none."""
        spans = self.products - np.outer(self.sums, self.sums) / max(self.count, 1)
        spread = np.sqrt(np.maximum(np.diagonal(spans), 0))
        scale = np.outer(spread, spread)
        return np.asarray(np.divide(spans, scale, out=np.zeros_like(spans), where=scale > 0))

    def nearness(self) -> Array:
        """Minus the distances [d, d] of values of one model (rows) and another, k being 2 d."""
        half = len(self.sums) // 2
        squares = np.diagonal(self.products)
        both = squares[:half, None] + squares[half:] - 2 * self.products[:half, half:]
        return np.asarray(-np.sqrt(np.maximum(both, 0)))


def assigned(likeness: Array) -> Array:
    """The homes [d] of a second model's units among the first's: the pairs most alike in sum.

    ``likeness`` [d, d] has the first model's units in its rows.
    """
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    homes = np.empty(len(rows), np.intp)
    homes[columns] = rows
    return homes


def match_weights(pool: Pool, units: Units) -> dict[str, Array]:
    """Homes [M, d] by group: each model's units put beside those of the first like them.

    Group after group the assignment with the largest inner products of all weights of its units is
    taken, the other groups being as they are, until no round gains. In the first round only tensors
    count whose other axes have been matched, as far as there are any.
    """
    found = {group: [np.arange(size)] for group, size in units.sizes.items()}
    for model in range(1, len(pool)):
        homes = _matched(pool, units, model)
        for group, own in homes.items():
            found[group].append(own)
    return {group: np.stack(rows) for group, rows in found.items()}


def _matched(pool: Pool, units: Units, model: int) -> dict[str, Array]:
    homes = {group: np.arange(size) for group, size in units.sizes.items()}
    open_groups = list(units.sizes)
    while open_groups:
        group = max(open_groups, key=lambda one: _settled(units, one, open_groups))
        places = [
            place
            for place in units.of(group)
            if not _others(units, place) & {*open_groups} - {group}
        ] or list(units.of(group))
        homes[group] = assigned(likeness(pool, units, places, homes, model))
        open_groups.remove(group)
    for _ in range(ROUNDS):
        gained = False
        for group in units.sizes:
            alike = likeness(pool, units, list(units.of(group)), homes, model)
            best = assigned(alike)
            own = np.arange(best.size)
            before, after = alike[homes[group], own].sum(), alike[best, own].sum()
            if after > before + GAIN * abs(before):
                homes[group], gained = best, True
        if not gained:
            break
    return homes


def _settled(units: Units, group: str, open_groups: Sequence[str]) -> int:
    """How many weights of a group's units stand at axes that have been matched."""
    return sum(
        place.site.size
        for place in units.of(group)
        if not _others(units, place) & {*open_groups} - {group}
    )


def _others(units: Units, place: Axis) -> set[str]:
    return {one.group for one in units.axes[place.site.name] if one.axis != place.axis}


def likeness(
    pool: Pool, units: Units, places: Sequence[Axis], homes: Mapping[str, Array], model: int
) -> Array:
    """Inner products [d, d] of the units' weights: the first model's in rows, another's in columns.

    All axes but the units' own are brought into the first model's order.
    """
    total: Array = np.zeros(0)
    for place in places:
        first, other = _rows(pool, units, place, {0: None, model: homes})
        product: Array = first @ other.T
        total = product if not total.size else total + product
    return total


def correlations(pool: Pool, units: Units, group: str, plan: Mapping[str, Array]) -> Array:
    """Correlations [M·d, M·d] of the weights of a group's units, over all its tensors.

    All other axes, and the units too, are brought into the first model's order by ``plan``, homes
    [M, d] by group. A unit whose weights are all the same correlates with none.
    """
    models, size = len(pool), units.sizes[group]
    products = np.zeros((models * size, models * size))
    sums, count = np.zeros(models * size), 0
    for place in units.of(group):
        given = {model: {name: homes[model] for name, homes in plan.items()}
                 for model in range(models)}  # fmt: skip
        rows = np.concatenate(_rows(pool, units, place, given, whole=True))
        products += rows @ rows.T
        sums += rows.sum(1)
        count += rows.shape[1]
    return Moments(products, sums, count).correlations()


def _rows(
    pool: Pool,
    units: Units,
    place: Axis,
    homes: Mapping[int, Mapping[str, Array] | None],
    *,
    whole: bool = False,
) -> list[Array]:
    """Weights [d, n] of the units of some models, at one place."""
    site, size = place.site, units.sizes[place.group]
    values, _ = pool.block(site, 0, site.size, against_base=False)
    axes = units.axes[site.name]
    found = []
    for model, own in homes.items():
        block = values[model].reshape(site.shape)
        if own is not None:
            moved = axes if whole else [one for one in axes if one.axis != place.axis]
            block = aligned(block, moved, own)
        front = np.moveaxis(block, place.axis, 0)
        found.append(np.ascontiguousarray(front, np.float64).reshape(size, -1))
    return found


def zipped(likeness: Array, models: int, *, again: float, within: float) -> Array:
    """Homes [M, d] below d: the units most alike become one until d are left, also of one model.

    ``likeness`` [M·d, M·d] is symmetric. A pair's likeness to others is the smaller of the two's,
    times ``again`` (0: two that hold units of one model are not joined again). ``within`` is the
    share of what goes that each model may give to pairs of its own. With more than two models these
    limits may leave no pair; then they are lifted.
    """
    alike = np.array(likeness, np.float64)
    count = len(alike)
    size = count // models
    owner = np.repeat(np.arange(models), size)
    budget = np.full(models, int((count - size) // models * within + 1e-4))
    holds = np.eye(models, dtype=bool)[owner]
    live = np.ones(count, bool)
    shut = np.eye(count, dtype=bool)
    for model in np.flatnonzero(budget == 0):
        shut[np.ix_(owner == model, owner == model)] = True
    homes = np.arange(count)
    best, tops = _best(alike, shut, live)
    for _ in range(count - size):
        if tops.max() == -np.inf:
            shut = np.eye(count, dtype=bool)
            shut[~live] = shut[:, ~live] = True
            best[live], tops[live] = _best(alike, shut, live)
        one = int(tops.argmax())
        keep, gone = sorted((one, int(best[one])))
        homes[homes == gone] = keep
        live[gone] = False
        alike[keep] = np.minimum(alike[keep], alike[gone]) * (again or 1.0)
        closed = shut[keep] | shut[gone]
        holds[keep] |= holds[gone]
        if again <= 0:
            closed |= (holds & holds[keep]).any(1)
        alike[:, keep] = alike[keep]
        shut[keep], shut[:, keep] = closed, closed
        shut[gone], shut[:, gone] = True, True
        stale = live & ((best == keep) | (best == gone))
        if owner[keep] == owner[gone]:
            budget[owner[keep]] -= 1
            if budget[owner[keep]] <= 0:
                mine = owner == owner[keep]
                shut[np.ix_(mine, mine)] = True
                stale |= live & mine
        stale[keep] = True
        reached = np.where(shut[keep], -np.inf, alike[keep])
        better = live & ~stale & (reached > tops)
        best[better], tops[better] = keep, reached[better]
        best[stale], tops[stale] = _best(alike, shut, stale)
        tops[gone] = -np.inf
    _, compact = np.unique(homes, return_inverse=True)
    return np.asarray(compact.reshape(models, size))


def _best(alike: Array, shut: Array, rows: Array) -> tuple[Array, Array]:
    """The likest unit of each of some rows, and how like it is."""
    open_pairs = np.where(shut[rows], -np.inf, alike[rows])
    best = open_pairs.argmax(1)
    return best, open_pairs[np.arange(len(best)), best]
