r"""The trained adapters of all tasks, each scaled by learnt numbers and added up.

    added = Σ_e ω_{t,e} ⊙ z_e,   z_e = adapter_e(h),   t = the row's task

for each token h [d]; the adapters z of the first stage are frozen, and nothing constrains ω. By
``kind`` it is [T, E, d] at each site (``scalearn``), [T, E] (``uniform``), or the same for all
sites (``scalearn++``, ``uniform++``: E numbers a task). ω starts from N(2/E, 0.001²). In training
dropout acts on ω itself, one mask for each task and step, survivors scaled up. Parameters: T·E·d
or T·E, for each site or once.

    >>> from plait.adapting.scalearn import ScaLearn
    >>> ScaLearn(kind="uniform++").trained_on.card.name
    'bottleneck'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import BottleneckBank, OwnBank, trained_at
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Method, Paper, did_you_mean, resolve
from plait.networks.base import Start
from plait.sites import ModuleSite
from plait.task import TaskSet

KINDS = ("scalearn", "uniform", "scalearn++", "uniform++")
STD = 0.001  # of the start


@dataclass(frozen=True, kw_only=True)
class ScaLearn(Adapter):
    """ScaLearn over the adapters ``sources``; ``total`` is what ω sums to at the start."""

    sources: Method | str = "bottleneck"
    kind: str = "scalearn"
    total: float = 2.0
    dropout: float = 0.3
    sites: Sequence[str] = ()
    parts = {"sources": "adapting"}  # noqa: RUF012

    card = Card(
        family="adapting",
        name="scalearn",
        summary="The trained adapters of all tasks, scaled by learnt numbers and added up.",
        paper=Paper(
            title="ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning "
            "to Scale",
            authors="Markus Frohmann and Carolin Holtermann and Shahed Masoudian and "
            "Anne Lauscher and Navid Rekabsaz",
            year=2024,
            venue="Findings of ACL",
            url="https://arxiv.org/abs/2310.01217",
        ),
        laws=frozenset({Law.ABSENT, Law.ROWS}),
        deviations=("a task has a mask of its own in a step; the authors' batch has one task",),
        exceptions={
            "fresh_adapter_changes_nothing": "it starts from the sum of the tasks' adapters",
            "more_tasks_change_no_start": "more tasks are more adapters to scale",
            "more_tasks_change_no_output": "more tasks are more adapters to scale",
        },
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind {self.kind!r}{did_you_mean(self.kind, KINDS)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def trained_on(self) -> Adapter:
        """The adapters of the first stage."""
        found: Adapter = resolve("adapting", self.sources)
        return found

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Stand where the first stage's adapters stood; ``ValueError`` where they are no such."""
        firsts = {s.path: trained_at(s, BottleneckBank, "scalearn") for s in sites}
        widths = {len(first.stack("up_bias")[0]) for first in firsts.values()}
        if self.kind == "scalearn++" and len(widths) > 1:
            raise ValueError(f"scalearn++ needs sites of one width, and these have {widths}")

        def scales(first: BottleneckBank) -> _Scales:
            width = first.stack("up_bias").shape[1] if self.kind.startswith("scalearn") else 1
            return _Scales(tasks.names, first.names, width, self)

        if not self.kind.endswith("++"):
            return put(
                sites, routing, lambda s: _ScaledBank(firsts[s.path], scales(firsts[s.path]))
            )
        one = scales(next(iter(firsts.values()))).like(sites[0].module)

        def bank(site: ModuleSite) -> SiteBank:
            return _ScaledBank(firsts[site.path], one, shared=True)

        return put(sites, routing, bank, scales=one)


class _Scales(OwnBank):
    """ω [T, E, d] or [T, E, 1]."""

    def __init__(
        self, names: Sequence[str], sources: Sequence[str], width: int, settings: ScaLearn
    ) -> None:
        super().__init__(names)
        self.dropout = settings.dropout
        start = _around(settings.total / len(sources), sources)
        self.add("scales", len(sources), width, start=start)

    def once(self, present: Tensor) -> Tensor:  # noqa: ARG002
        """ω, some of it dropped in training."""
        found: Tensor = F.dropout(self.stack("scales"), self.dropout, self.training)
        return found


class _ScaledBank(SiteBank):
    """One site's scales, its own or those that all sites share."""

    def __init__(self, first: BottleneckBank, scales: _Scales, *, shared: bool = False) -> None:
        super().__init__()
        self.first = (first,)  # frozen, and registered by the trunk
        self.common = (scales,)
        self.scales = None if shared else scales

    def once(self, present: Tensor) -> Tensor | None:
        """The site's own ω."""
        return None if self.scales is None else self.scales.once(present)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        (first,), (common,) = self.first, self.common
        assert isinstance(base, Adapted)
        scales = routing.made(common if self.scales is None else self)
        own = scales.index_select(0, routing.task)

        def added(h: Tensor) -> Tensor:
            found: Tensor = (first.every(routing.by_row(h)) * own.unsqueeze(1)).sum(2)
            return found

        return first.around(base.base, inputs, named, added)


def _around(mean: float, sources: Sequence[str]) -> Start:
    """Start from N(mean, 0.001²), a source's draws by its name and not by its place."""
    order = sorted(range(len(sources)), key=lambda place: sources[place])

    def start(slice_: Tensor, generator: torch.Generator) -> None:
        for place in order:
            slice_[place].normal_(mean, STD, generator=generator)

    return start
