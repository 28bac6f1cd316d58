"""Layers of joined units, fitted to what the models' own layers make of their own inputs.

    W = argmin_W Σ_n ‖W z_n − t_n‖²,   z = S [a₁; …; a_M]  [i′],   t = R [W₁a₁ + b₁; …]  [o′]

with a_m [i] the inputs of model m's layer on the same rows, and S, R the means over the units that
a plan sends to one place. A place that holds units of one model alone reads no place that holds
none of it. The bias is fitted along. Where inputs do not tell, the weights are those joined by the
plan.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from plait.merging.matching import Moments
from plait.merging.pool import Array, Pool
from plait.merging.stages.descent import least_squares
from plait.merging.units import Axis, Units, joined, membership
from plait.weights.sites import Site


def fitted(
    pool: Pool, units: Units, plan: Mapping[str, Array], moments: Mapping[str, Moments]
) -> dict[str, Array]:
    """Weights and biases by name, for the layers whose inputs' ``moments`` are there.

    ``plan`` has homes [M, d] by group; inputs are [M n] side by side, n as a weight laid out flat.
    """
    sites = {site.name: site for site in pool.sites if site.floating and site.size}
    found: dict[str, Array] = {}
    for name, own in moments.items():
        axes = units.axes.get(name, ())
        if name in sites and all(one.axis == int(not one.writes) for one in axes):
            bias = sites.get(name.removesuffix("weight") + "bias")
            layer = [sites[name]] if bias is None else [sites[name], bias]
            found |= _layer(pool, units, plan, layer, own)
    return found


def _layer(
    pool: Pool, units: Units, plan: Mapping[str, Array], layer: list[Site], moments: Moments
) -> dict[str, Array]:
    site, models = layer[0], len(pool)
    axes = {one.axis: one for one in units.axes.get(site.name, ())}
    kernel = int(np.prod(site.shape[2:], dtype=int))
    outputs, outs = _homes(axes.get(0), plan, site.shape[0], models)
    inputs, span = _homes(axes.get(1), plan, site.shape[1], models)
    squares, before = moments.products, membership(inputs, span * kernel)
    holders_in = np.repeat(_holders(inputs), span * kernel, axis=1)
    joints = [joined(pool, units, plan, one) for one in layer]
    start = joints[0].reshape(len(joints[0]), -1).astype(np.float64)
    own = _values(pool, site).reshape(models, site.shape[0], -1)
    right = np.concatenate(
        [weight @ part for weight, part in zip(own, np.split(squares, models), strict=True)]
    )
    gram = before @ (before @ squares.T).T
    right = (before @ right.T).T
    if len(layer) > 1:  # the bias reads a value that is always 1
        means, ones = before @ moments.sums, float(moments.count)
        shifts = _values(pool, layer[1])
        parts = np.split(moments.sums, models)
        last = [w @ part + b * ones for w, part, b in zip(own, parts, shifts, strict=True)]
        right += shifts.reshape(-1, 1) * means
        right = np.column_stack([right, np.concatenate(last)])
        gram = np.block([[gram, means[:, None]], [means, np.array(ones)]])
        holders_in = np.column_stack([holders_in, np.ones((models, 1), bool)])
        start = np.column_stack([start, joints[1]])
    slope = start @ gram - membership(outputs, outs) @ right
    holders = np.repeat(_holders(outputs), outs, axis=1)
    for who in np.unique(holders.T, axis=0):
        rows = np.flatnonzero((who == holders.T).all(1))
        some = np.flatnonzero(holders_in[who].any(0))
        block = np.ix_(rows, some)
        start[block] = least_squares(start[block], gram[np.ix_(some, some)], slope[block])
    width = start.shape[1] - len(layer) + 1
    found = {site.name: start[:, :width].reshape(joints[0].shape)}
    if len(layer) > 1:
        found[layer[1].name] = start[:, width]
    return found


def _homes(
    one: Axis | None, plan: Mapping[str, Array], length: int, models: int
) -> tuple[Array, int]:
    """Homes [M, d] along an axis and the entries of each unit; as they are without a group."""
    if one is None:
        return np.tile(np.arange(length), (models, 1)), 1
    return plan[one.group], one.span


def _holders(homes: Array) -> Array:
    """Whether a model has units at a place, [M, d′]."""
    found = np.zeros((len(homes), int(homes.max()) + 1), bool)
    for row, own in zip(found, homes, strict=True):
        row[own] = True
    return found


def _values(pool: Pool, site: Site) -> Array:
    values, _ = pool.block(site, 0, site.size, against_base=False)
    return values.astype(np.float64)
