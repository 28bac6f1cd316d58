"""What several models make of the same inputs: their activations' products, over all the models.

    P = Σ_n a_n a_nᵀ  [M k, M k],   s = Σ_n a_n  [M k],   N samples

where a_n [M k] holds k values of every model side by side. A sample is a row, or a position of one
that is no padding. All models see at most ``rows`` rows of each task. The activations of ``size``
rows are held at a time, and the network on the bench takes the models' weights in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from plait.merging.bench import Bench
from plait.merging.matching import Moments
from plait.merging.pool import Pool, PoolError
from plait.merging.statistics.inputs import columns, layers, listening, units_last
from plait.merging.units import Units

Heard = Callable[[str, Tensor], None]
Hearing = Callable[[Heard], AbstractContextManager[None]]


def of_units(
    bench: Bench, pool: Pool, units: Units, *, rows: int, size: int, seed: int
) -> dict[str, Moments]:
    """The products of the units' activations, by group.

    They are what goes into the layers that read a group, and where none does what comes out of
    those that write it. ``PoolError`` names a group with neither, before anything is run.
    """
    watched = _watched(bench.module, units)

    def hearing(heard: Heard) -> AbstractContextManager[None]:
        def layer(name: str, one: nn.Module, given: Tensor, made: Tensor, real: Tensor) -> None:
            for group, written in watched.get(name, ()):
                values = units_last(one, made if written else given)
                kept = values.flatten(0, -2) if real is None else values[real]
                spread = kept.view(len(kept), units.sizes[group], -1).transpose(1, 2)
                heard(group, spread.flatten(0, 1))

        return listening(bench.module, layer)

    return _together(bench, pool, hearing, rows, size, seed)


def of_layers(bench: Bench, pool: Pool, *, rows: int, size: int, seed: int) -> dict[str, Moments]:
    """The products of what goes into linear layers and convolutions, by their weights' names.

    A sample of a convolution is what one of its outputs is formed of.
    """

    def hearing(heard: Heard) -> AbstractContextManager[None]:
        def layer(name: str, one: nn.Module, given: Tensor, _: Tensor, real: Tensor) -> None:
            heard(name, columns(one, given, real))

        return listening(bench.module, layer)

    return _together(bench, pool, hearing, rows, size, seed)


@torch.no_grad()
def _together(
    bench: Bench, pool: Pool, hearing: Hearing, most: int, size: int, seed: int
) -> dict[str, Moments]:
    found: dict[str, Moments] = {}
    for task in pool.names:
        for rows in bench.batches(task, most, size, seed):
            held: dict[str, list[Tensor]] = {}
            for model in pool.names:
                bench.load(pool, model)
                own: dict[str, list[Tensor]] = {}
                with hearing(lambda key, values, own=own: own.setdefault(key, []).append(values)):  # type: ignore[misc]
                    bench.run(task, rows)
                for key, several in own.items():
                    held.setdefault(key, []).append(torch.cat(several))
            for key, each in held.items():
                values = torch.cat(each, 1).double().cpu().numpy()
                now = Moments(values.T @ values, values.sum(0), len(values))
                found[key] = found[key] + now if key in found else now
    return found


def _watched(module: nn.Module, units: Units) -> dict[str, list[tuple[str, bool]]]:
    """By a weight's name the groups to be heard at its layer, and whether in what it gives."""
    known = layers(module)
    found: dict[str, list[tuple[str, bool]]] = {}
    for group in units.sizes:
        places = [
            one
            for one in units.of(group)
            if one.site.name in known and one.axis == int(not one.writes)
        ]
        if not places:
            raise PoolError(
                f"no linear layer or convolution reads or writes the units of {group!r}, so that "
                "their activations are not known; match by weights, or leave the group out of the "
                "rules"
            )
        readers = [one for one in places if not one.writes]
        for one in readers or places:
            found.setdefault(one.site.name, []).append((group, one.writes))
    return found
