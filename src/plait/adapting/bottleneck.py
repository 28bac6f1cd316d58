r"""A narrow network with a skip after frozen layers, for each task.

    h ← h + U_t f(D_t h + b_t) + b′_t,   t = the row's task

D [T, m, d] and U [T, d, m] start from N(0, std²), the biases b [T, m] and b′ [T, d] from 0: the
adapted network begins near the frozen one. ``place`` says where h is:

- ``houlsby``: what attention and the feed-forward part each say, before they are added to the
  stream;
- ``pfeiffer``: once a block, after the feed-forward part. Where a norm follows its sum, with o the
  part's output and x the stream, LN(o + U f(D LN(o + x) + b) + b′ + x): the adapter reads the norm
  and adds before it. In blocks that normalise first it follows the block.

Where a network has no attention the adapters follow its linear layers. The slices of the rows'
tasks are gathered: the cost does not grow with T. Parameters: T·(2·m·d + m + d) for each site,
m = max(1, d // reduction).

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8))
    >>> tasks, routing = TaskSet([Task(name="a"), Task(name="b")]), Routing()
    >>> banks = Bottleneck(reduction=4).attach(module_sites(net, "0"), tasks, routing)
    >>> sum(p.numel() for p in banks.parameters()) == 2 * (2 * 2 * 8 + 2 + 8)
    True
    >>> with routing.to(torch.tensor([1, 0])):
    ...     net(torch.ones(2, 4)).shape
    torch.Size([2, 8])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from plait.adapting.banks import ACTIVATIONS, BottleneckBank, width_of
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper, did_you_mean
from plait.sites import ModuleSite, role_sites
from plait.task import TaskSet

PLACES = {
    "houlsby": (("attention_output", "outer"), ("linear",)),
    "pfeiffer": (("outer_norm",), ("block",), ("linear",)),
}


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Adapter):
    """Bottleneck adapters of width d // ``reduction``; ``std`` is that of their start."""

    place: str = "pfeiffer"
    reduction: int = 16
    activation: str = "relu"
    std: float = 0.02
    sites: Sequence[str] = ()
    types = (nn.Module,)

    card = Card(
        family="adapting",
        name="bottleneck",
        summary="A narrow network with a skip after frozen layers, for each task.",
        paper=Paper(
            title="Parameter-Efficient Transfer Learning for NLP",
            authors="Neil Houlsby and Andrei Giurgiu and Stanislaw Jastrzebski and "
            "Bruna Morrone and Quentin de Laroussilhe and Andrea Gesmundo and Mona Attariyan and "
            "Sylvain Gelly",
            year=2019,
            venue="ICML",
            url="https://arxiv.org/abs/1902.00751",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "place and start default to AdapterFusion's; place: houlsby is the paper's",
            "the frozen norms stay frozen; Houlsby et al. train them per task",
        ),
        exceptions={
            "fresh_adapter_changes_nothing": "the published start is near the identity, not at it",
        },
    )

    def __post_init__(self) -> None:
        for name, value, known in (
            ("place", self.place, PLACES),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if value not in known:
                raise ValueError(f"no {name} {value!r}{did_you_mean(value, known)}")
        if self.reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {self.reduction}")

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The sites that ``place`` says, or those named."""
        if self.sites:
            return super().choose(network)
        tried = [role_sites(network, *roles) for roles in PLACES[self.place]]
        found = next((sites for sites in tried if sites), [])
        if not found:
            raise ValueError("the network has no linear layer for bottleneck; name sites")
        return found

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Put an adapter around what stands at each site."""

        def bank(site: ModuleSite) -> SiteBank:
            width = max(1, width_of(site.module) // self.reduction)
            return BottleneckBank(tasks.names, site.module, width, self.activation, self.std)

        return put(sites, routing, bank)
