"""The units of networks (neurons, channels) across a pool: which tensors' axes hold the same ones.

*Rules* say for every tensor, by its name, which group of units stands along each axis, or none:

    {"fc1.weight": ["hidden", null], "fc1.bias": ["hidden"], "fc2.weight": [null, "hidden"]}

A ``*`` in a name fits anything, and a ``*`` in a group's name is what the first one fitted. The
first axis *writes* its units and the others *read* theirs; ``->group`` and ``<-group`` say where it
is the other way round (the second axis of an embedding writes). An axis longer than its group holds
a run of entries for every unit, as a linear layer does behind a flattened image.

A *plan* says for each group where every model's unit goes: ``homes`` [M, d] with values below d′.
Then, over all models,

    written axis: the mean of the units that go to one place;   read axis: their sum;
    no group on any written axis: the mean over models

so that equal units that meet leave the function as it is, in whatever order they stood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import sparse

from plait.merging.pool import Array, Pool, PoolError
from plait.merging.results import Merged, stored, write
from plait.weights.sinks import Sink
from plait.weights.sites import Site

Rules = Mapping[str, Sequence[str | None]]
SEQUENCE: Literal["sequence"] = "sequence"  # numbered layers of one module follow one another
COUNTED = ("running_mean", "running_var")  # statistics that say nothing of the weights

# Layouts that are known by the names of their tensors. The heads of attention stay as they are.
LLAMA: Rules = {
    "*embed_tokens.weight": [None, "->stream"],
    "*.q_norm.weight": [None],
    "*.k_norm.weight": [None],
    "*.q_proj.weight": [None, "stream"],
    "*.k_proj.weight": [None, "stream"],
    "*.v_proj.weight": [None, "stream"],
    "*.o_proj.weight": ["stream", None],
    "*.gate_proj.weight": ["*", "stream"],
    "*.up_proj.weight": ["*", "stream"],
    "*.down_proj.weight": ["stream", "*"],
    "*.q_proj.bias": [None],
    "*.k_proj.bias": [None],
    "*.v_proj.bias": [None],
    "*.o_proj.bias": ["stream"],
    "*.gate_proj.bias": ["*"],
    "*.up_proj.bias": ["*"],
    "*.down_proj.bias": ["stream"],
    "*norm.weight": ["stream"],
    "lm_head.weight": [None, "stream"],
}
BERT: Rules = {
    "*embeddings.*_embeddings.weight": [None, "->stream"],
    "cls.predictions.transform.dense.weight": [None, "stream"],
    "cls.*": [None],
    "*layer.*.attention.self.*.weight": [None, "stream"],
    "*layer.*.attention.self.*.bias": [None],
    "*layer.*.attention.output.dense.weight": ["stream", None],
    "*layer.*.attention.output.dense.bias": ["stream"],
    "*layer.*.intermediate.dense.weight": ["*layer.*", "stream"],
    "*layer.*.intermediate.dense.bias": ["*layer.*"],
    "*layer.*.output.dense.weight": ["stream", "*layer.*"],
    "*layer.*.output.dense.bias": ["stream"],
    "*LayerNorm.*": ["stream"],
    "*pooler.dense.weight": [None, "stream"],
    "*pooler.dense.bias": [None],
    "classifier.*": [None],
}
LAYOUTS: Mapping[str, Rules] = {".mlp.gate_proj.weight": LLAMA, ".intermediate.dense.weight": BERT}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where a tensor holds units: entries of an axis, ``span`` of them for each unit."""

    site: Site
    axis: int
    group: str
    writes: bool
    span: int


@dataclass(frozen=True, kw_only=True)
class Units:
    """The groups of units of a pool: sizes by name, and the axes of every tensor by its name."""

    sizes: Mapping[str, int]
    axes: Mapping[str, tuple[Axis, ...]]

    def of(self, group: str) -> Iterable[Axis]:
        """The places of a group that tell its units apart."""
        for axes in self.axes.values():
            yield from (
                one for one in axes if one.group == group and not one.site.name.endswith(COUNTED)
            )


def units(pool: Pool, rules: Rules | str | None) -> Units:
    """The groups of units in a pool: by rules, by a layout that the names tell, or in sequence.

    Raises :class:`PoolError` for rules that fit no tensor, axes that do not fit their group, and,
    without rules, for names that tell nothing.
    """
    floating = [site for site in pool.sites if site.floating and site.size]
    match rules:
        case None:
            rules = _known(floating)
        case str():
            rules = _sequences(floating)
    unused = dict.fromkeys(rules)
    named: dict[str, list[Axis]] = {}
    for site in floating:
        found = _labels(site, rules, unused)
        if found:
            named[site.name] = [
                Axis(site=site, axis=axis, group=group, writes=writes, span=1)
                for axis, (group, writes) in found.items()
            ]
    if unused and rules not in LAYOUTS.values():
        raise PoolError(f"no tensor has a name that fits {', '.join(map(repr, unused))}")
    sizes: dict[str, int] = {}
    for one in (one for axes in named.values() for one in axes):
        length = one.site.shape[one.axis]
        sizes[one.group] = min(length, sizes.get(one.group, length))
    return Units(
        sizes=sizes,
        axes={name: tuple(_spanned(one, sizes) for one in axes) for name, axes in named.items()},
    )


def _labels(site: Site, rules: Rules, unused: dict[str, None]) -> dict[int, tuple[str, bool]]:
    """Group, and whether it is written, by axis of a tensor."""
    for pattern, axes in rules.items():
        fitted = _fitted(pattern, site)
        if fitted is None:
            continue
        unused.pop(pattern, None)
        if len(axes) > len(site.shape):
            raise PoolError(
                f"{site.name!r} is {list(site.shape)}, "
                f"and its rule {pattern!r} has {len(axes)} axes"
            )
        found = {}
        for axis, label in enumerate(axes):
            if label is not None:
                group = label.removeprefix("->").removeprefix("<-")
                for part in fitted.groups():
                    group = group.replace("*", part, 1)
                writes = label.startswith("->") or (axis == 0 and not label.startswith("<-"))
                found[axis] = (group, writes)
        if sum(writes for _, writes in found.values()) > 1:
            raise PoolError(f"{site.name!r} cannot write units along two axes (rule {pattern!r})")
        return found
    return {}


def _fitted(pattern: str, site: Site) -> re.Match[str] | None:
    return re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), site.name)


def _spanned(one: Axis, sizes: Mapping[str, int]) -> Axis:
    length, size = one.site.shape[one.axis], sizes[one.group]
    if length % size:
        raise PoolError(
            f"{one.site.name!r} has {length} entries along axis {one.axis} for the {size} units of "
            f"{one.group!r}; one tensor of that group does not belong to it"
        )
    return replace(one, span=length // size)


def _known(sites: Sequence[Site]) -> Rules:
    """The rules of a layout that the names of tensors tell."""
    for mark, layout in LAYOUTS.items():
        if any(site.name.endswith(mark) for site in sites):
            strange = next((s.name for s in sites if not any(_fitted(r, s) for r in layout)), None)
            if strange is not None:
                raise PoolError(
                    f"{strange!r} has no place among the layouts that are known; give rules for "
                    "the units of all tensors"
                )
            return layout
    matrices = [site for site in sites if len(site.shape) > 1]
    if len(matrices) > 1:
        raise PoolError(
            f"the names of the tensors ({matrices[0].name!r}, …) do not tell which of them hold "
            "the same units; give rules, or 'sequence' where numbered layers follow one another "
            "(plait.flows.units finds the rules of a torch module)"
        )
    return {}


def _sequences(sites: Sequence[Site]) -> dict[str, list[str | None]]:
    """Rules for layers that are numbered children of one module: each reads the one before."""
    rules: dict[str, list[str | None]] = {}
    last: dict[str, Site] = {}
    vectors: dict[str, list[Site]] = {}
    for site in sites:
        parent, number = _numbered(site)
        if number is None:
            continue
        before = last.get(parent)
        if len(site.shape) < 2:
            vectors.setdefault(parent, []).append(site)
            continue
        if before is not None:
            if site.shape[1] % before.shape[0] or (
                len(before.shape) == 2 and site.shape[1] != before.shape[0]
            ):
                raise PoolError(
                    f"{site.name!r} reads {site.shape[1]} values, and {before.name!r} before it "
                    f"writes {before.shape[0]}; give rules that say which units they hold"
                )
            group = before.name.rpartition(".")[0]
            rules.setdefault(before.name, [None, None])[0] = group
            rules.setdefault(site.name, [None, None])[1] = group
            for vector in vectors.get(parent, ()):
                if vector.shape == before.shape[:1]:
                    rules[vector.name] = [group]
        last[parent], vectors[parent] = site, []
    return rules


def _numbered(site: Site) -> tuple[str, int | None]:
    """The module that a layer is a numbered child of, and its number."""
    parent, _, number = site.name.rpartition(".")[0].rpartition(".")
    return parent, int(number) if number.isdecimal() else None


def identity(units: Units, models: int) -> dict[str, Array]:
    """The plan in which every unit stays where it is: homes [M, d] by group."""
    return {group: np.tile(np.arange(size), (models, 1)) for group, size in units.sizes.items()}


def aligned(values: Array, axes: Sequence[Axis], homes: Mapping[str, Array]) -> Array:
    """One model's tensor with its units where ``homes`` [d] by group (permutations) send them."""
    for one in axes:
        values = _moved(values, one, np.argsort(homes[one.group]))
    return values


def _moved(values: Array, one: Axis, order: Array) -> Array:
    places = (order[:, None] * one.span + np.arange(one.span)).reshape(-1)
    return np.take(values, places, axis=one.axis)


def merge_units(
    pool: Pool,
    units: Units,
    plan: Mapping[str, Array],
    sink: Sink,
    workers: int,
    evidence: Mapping[str, Any],
    *,
    instead: Mapping[str, Array] | None = None,
) -> Merged:
    """Merge a pool's tensors by a plan of homes [M, d] by group, into a sink.

    ``instead`` has the values of tensors that are not to be merged so, by their names.
    """
    sources: dict[str, Site] = {}
    for site in pool.sites:
        shape = list(site.shape)
        for one in units.axes.get(site.name, ()):
            shape[one.axis] = (int(plan[one.group].max()) + 1) * one.span
        sources[site.name] = replace(site, shape=tuple(shape))
    origins = {site.name: site for site in pool.sites}
    given = instead or {}

    def place(site: Site) -> None:
        values = given.get(site.name)
        if values is None:
            values = joined(pool, units, plan, origins[site.name])
        flat = values.reshape(-1).astype(site.working, copy=False)
        sink.write(site, 0, stored(flat, site, allow_nonfinite=pool.allow_nonfinite))

    write(pool, sink, place, sites=list(sources.values()), workers=workers)
    return Merged(tensors=sink.tensors, evidence=evidence)


def joined(pool: Pool, units: Units, plan: Mapping[str, Array], site: Site) -> Array:
    """One tensor merged by a plan."""
    axes = units.axes.get(site.name, ())
    values, _ = pool.block(site, 0, site.size, against_base=False)
    total: Array = np.zeros(0)
    for model, own in enumerate(values.reshape(len(pool), *site.shape)):
        found = own
        for one in axes:
            homes = plan[one.group]
            found = _gathered(found, one, homes[model], int(homes.max()) + 1)
        total = found.copy() if not model else total + found
    written = [one for one in axes if one.writes]
    for one in written:
        counts = np.repeat(np.bincount(plan[one.group].reshape(-1)), one.span)
        shape = [a for a in range(total.ndim) if a != one.axis]
        total /= np.expand_dims(counts.astype(site.working), shape)
    return total if written else total / site.working.type(len(pool))


def membership(homes: Array, span: int) -> sparse.csr_array:
    """What makes every place the mean of what is sent there, [d′ n, M d n] by entries.

    ``homes`` are [M, d] below d′, of units that have ``span`` entries each.
    """
    count = homes.size
    member = sparse.csr_array((np.ones(count), (homes.reshape(-1), np.arange(count))))
    member = sparse.diags_array(1 / member.sum(1)) @ member
    return sparse.csr_array(sparse.kron(member, sparse.eye_array(span)))


def _gathered(values: Array, one: Axis, homes: Array, width: int) -> Array:
    """A tensor with the units along an axis added up at their homes [d], below ``width``."""
    size = homes.size
    member = sparse.csr_array(
        (np.ones(size, values.dtype), (homes, np.arange(size))), shape=(width, size)
    )
    front = np.moveaxis(values, one.axis, 0)
    added = member @ np.ascontiguousarray(front).reshape(size, -1)
    return np.moveaxis(added.reshape(width * one.span, *front.shape[1:]), 0, one.axis)
