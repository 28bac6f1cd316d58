r"""Bottlenecks after the blocks of a transformer, and a chain of bottlenecks that connects them.

    s_l = s_{l−1} + U′_l f(D′_l (h_l + s_{l−1}) + c_l) + c′_l
    h_l ← h_l + U_l f(D_l h_l + b_l) + b′_l + s_l

h_l [n, d] is what block l says, s_0 = 0; every matrix is that of the row's task. The first
bottleneck is inside the network, the second aside: the chain s runs beside the frozen blocks, so
gradients reach the first of them without passing any. All matrices start from N(0, 0.02²), biases
from 0: the adapted network begins near the frozen one. Parameters: 2·T·(2·m·d + m + d) for each
block, m = max(1, d // reduction).

    >>> from plait.adapting.connected_adapters import ConnectedAdapters
    >>> ConnectedAdapters().settings()["reduction"]
    16
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from plait.adapting.banks import ACTIVATIONS, BottleneckBank, width_of
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.reading import transformer_of
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper, did_you_mean
from plait.sites import ModuleSite
from plait.task import TaskSet

STD = 0.02  # of the start of every matrix


@dataclass(frozen=True, kw_only=True)
class ConnectedAdapters(Adapter):
    """IAA: inside and aside modules of width d // ``reduction``."""

    reduction: int = 16
    activation: str = "gelu"
    sites: Sequence[str] = ()
    places = (("block",),)
    types = (nn.Module,)
    transformers_only = True

    card = Card(
        family="adapting",
        name="connected_adapters",
        summary="Bottlenecks after a transformer's blocks, connected by a chain beside them.",
        paper=Paper(
            title="Scattered or Connected? An Optimized Parameter-efficient Tuning Approach for "
            "Information Retrieval",
            authors="Xinyu Ma and Jiafeng Guo and Ruqing Zhang and Yixing Fan and Xueqi Cheng",
            year=2022,
            venue="CIKM",
            url="https://arxiv.org/abs/2208.09847",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "reconstructed from the abstract, which names modules inside and aside of the network",
            "of the paper's three ways to insert them this is none that was confirmed",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "matrices start near zero, not at it",
        },
    )

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            hint = did_you_mean(self.activation, ACTIVATIONS)
            raise ValueError(f"no activation {self.activation!r}{hint}")
        if self.reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {self.reduction}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Follow the blocks; ``ValueError`` where those of one transformer differ in width."""
        chains = [transformer_of(site, "connected_adapters") for site in sites]
        widths = [width_of(site.module) for site in sites]
        before: dict[str, str | None] = {}
        for one, two in itertools.pairwise(range(len(sites))):
            joined = chains[one] is chains[two]
            if joined and widths[one] != widths[two]:
                raise ValueError(
                    f"connected_adapters needs blocks of one width, and {sites[two].path} gives "
                    f"{widths[two]} after {widths[one]}"
                )
            before[sites[two].path] = sites[one].path if joined else None

        def bank(site: ModuleSite) -> SiteBank:
            return _Connected(tasks.names, site, before.get(site.path), self)

        return put(sites, routing, bank)


class _Connected(BottleneckBank):
    """The bottlenecks inside and aside of one block, which reads the chain from the one before."""

    def __init__(
        self,
        names: Sequence[str],
        site: ModuleSite,
        before: str | None,
        settings: ConnectedAdapters,
    ) -> None:
        d = width_of(site.module)
        width = max(1, d // settings.reduction)
        super().__init__(names, site.module, width, settings.activation, STD)
        self.bottleneck("aside_", width, d, STD)
        self.here, self.before = site.path, before

    def added(self, h: Tensor, routing: Routing) -> Tensor:
        """What the row's own modules add, [B, n, d]."""
        if self.before is None:
            chain = self.through(h, routing, "aside_")
        else:
            last = routing.carried[self.before]
            chain = last + self.through(h + last, routing, "aside_")
        routing.carried[self.here] = chain
        return self.through(h, routing, "") + chain
