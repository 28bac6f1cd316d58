r"""A few blocks that each task trains for itself, chosen greedily; the rest is shared and frozen.

    W_{t,l} = W₀_l + Δ_{t,l}   for l in the blocks that task t chose,   else W₀_l

for every weight of the block's linear layers, convolutions and norms; Δ starts from 0, so the
adapted network begins as the frozen one. Rows of all tasks run in one batch through what is shared,
and through weights of their own where they have such. ``sites`` names the blocks for all tasks,
``chosen`` those of each task; without either, every block is tuned. Blocks are a transformer's, or
where there are none single layers.

:func:`search` chooses: it adds the block that scores best, or drops the one that is missed least,
as long as the best score of a round is not more than ε below the best of all, and returns the best
subset that it saw.

    >>> gains = {"0": 1.0, "1": 3.0, "2": -1.0}
    >>> found = search(list(gains), lambda subset: sum(gains[name] for name in subset))
    >>> found.best, [subset for subset, score in found.rounds]
    (('0', '1'), [(), ('1',), ('0', '1'), ('0', '1', '2')])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.whole import WholeBank, layers_in
from plait.method import Card, Law, Paper, did_you_mean
from plait.sites import ModuleSite, module_sites
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class SubTuning(Adapter):
    """SubTuning; ``chosen`` maps tasks to patterns of their blocks, all of ``sites`` if missing."""

    sites: Sequence[str] = ()
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    places = (("block",), ("linear", "convolution"))
    types = (nn.Module,)

    card = Card(
        family="adapting",
        name="subtuning",
        summary="A few blocks that each task trains for itself, chosen greedily.",
        paper=Paper(
            title="Less is More: Selective Layer Finetuning with SubTuning",
            authors="Gal Kaplun and Andrey Gurevich and Tal Swisa and Mazor David and "
            "Shai Shalev-Shwartz and Eran Malach",
            year=2023,
            url="https://arxiv.org/abs/2302.06354",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "a block is stored as its change, so weight decay pulls to the frozen weights",
            "norms keep the frozen statistics",
        ),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {"chosen": "keys"}

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Give the tasks weights of their own in the blocks; ``ValueError`` for unknown ones."""
        tuned = self._tuned(sites, tasks)
        found: dict[str, tuple[ModuleSite, str]] = {}
        for site in sites:
            for layer in layers_in(site):
                found.setdefault(layer.path, (layer, site.path))
        if not found:
            raise ValueError("subtuning: the sites have no linear layer, convolution or norm")

        def bank(layer: ModuleSite) -> SiteBank:
            return WholeBank(tasks.names, layer.module, tuned[found[layer.path][1]])

        chosen = [layer for layer, block in found.values() if tuned[block]]
        return put(chosen, routing, bank)

    def _tuned(self, sites: Sequence[ModuleSite], tasks: TaskSet) -> Mapping[str, Sequence[str]]:
        """The tasks that tune each site."""
        for name in self.chosen:
            if name not in tasks.position:
                raise ValueError(f"subtuning: no task {name!r}{did_you_mean(name, tasks.names)}")
        found: dict[str, list[str]] = {site.path: [] for site in sites}
        for task in tasks.names:
            patterns = self.chosen.get(task)
            mine = set(found)
            if patterns is not None:
                matched = module_sites(sites[0].root, patterns) if patterns else []
                mine = {site.path for site in matched}
                if beside := mine - set(found):
                    raise ValueError(
                        f"subtuning: task {task!r} chose {min(beside)}, which is none of the "
                        f"blocks {', '.join(found)}"
                    )
            for path in mine:
                found[path].append(task)
        return found


Subset = tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What a search saw: the best subset with its score, and the best of each round in order."""

    best: Subset
    score: float
    rounds: Sequence[tuple[Subset, float]]


def search(
    layers: Sequence[str],
    score: Callable[[Subset], float],
    *,
    epsilon: float = 0.01,
    start: str = "none",
) -> Found:
    """Choose the layers to train by their ``score``, which trains a subset and validates it.

    ``start``: ``none`` adds layers, ``all`` drops them, ``better`` takes the better of both ends.
    A subset is scored once. Raises ``ValueError`` for another start, or an ε below 0.
    """
    if start not in (known := ("none", "all", "better")):
        raise ValueError(f"no start {start!r}{did_you_mean(start, known)}")
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    kept: dict[Subset, float] = {}

    def scored(subset: Subset) -> tuple[Subset, float]:
        if subset not in kept:
            kept[subset] = score(subset)
        return subset, kept[subset]

    ends = {"none": ((),), "all": (tuple(layers),), "better": ((), tuple(layers))}[start]
    rounds = [max((scored(end) for end in ends), key=lambda each: each[1])]
    adding = not rounds[0][0]
    best = rounds[0]
    for _ in layers:
        now = set(rounds[-1][0])
        free = [layer for layer in layers if (layer in now) != adding]
        tried = [scored(tuple(one for one in layers if one in now ^ {layer})) for layer in free]
        rounds.append(max(tried, key=lambda each: each[1]))
        if rounds[-1][1] > best[1]:
            best = rounds[-1]
        elif rounds[-1][1] < best[1] - epsilon:
            break
    return Found(*best, rounds)
