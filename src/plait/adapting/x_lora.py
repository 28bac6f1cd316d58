r"""The trained low-rank adapters of all tasks, mixed for each token by what the model says of it.

    y = W₀ x + Σ_e g_e s_e B_e A_e x,   g = softmax(C h / temperature)

for each token, with h [d] its last hidden state from a first run without adapters, and no gradient
through that run. The pairs A_e, B_e of the first stage are frozen; only the classifier C trains:
one matrix without bias [E, d], or with ``depth`` above 1 layers of ``hidden`` units, ReLU and
dropout before it. The same gates serve all sites, or with ``layerwise`` each site has its own.
Every row runs twice; one product over all experts at each site, no loop. Parameters: E·d, whatever
the number of sites.

    >>> from plait.adapting.x_lora import XLora
    >>> XLora().trained_on.card.name
    'lora'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import LowRankBank, SecondBank, gated, plain_pairs_at
from plait.adapting.base import Adapted, Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import transformer_sites
from plait.method import Card, Law, Method, Paper, resolve
from plait.networks.base import Bank, uniform
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class XLora(Adapter):
    """X-LoRA over the adapters ``sources``; ``dropout`` acts inside a deep classifier."""

    sources: Method | str = "lora"
    depth: int = 1
    hidden: int = 2048
    dropout: float = 0.2
    temperature: float = 1.0
    layerwise: bool = False
    sites: Sequence[str] = ()
    parts = {"sources": "adapting"}  # noqa: RUF012
    transformers_only = True

    card = Card(
        family="adapting",
        name="x_lora",
        summary="The trained LoRAs of all tasks, mixed for each token by what the model says.",
        paper=Paper(
            title="X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large "
            "Language Models with Applications in Protein Mechanics and Molecular Design",
            authors="Eric L. Buehler and Markus J. Buehler",
            year=2024,
            venue="APL Machine Learning",
            url="https://arxiv.org/abs/2402.07148",
        ),
        laws=frozenset({Law.ABSENT, Law.ROWS}),
        deviations=("every expert has its share: there is no cut to the largest few",),
        exceptions={
            "fresh_adapter_changes_nothing": "it starts from a mixture of the tasks' adapters",
            "more_tasks_change_no_output": "more tasks are more adapters to mix",
            "learns": "only the mixture of frozen adapters trains, which is too little for the law",
        },
    )

    def __post_init__(self) -> None:
        if self.depth < 1 or self.hidden < 1:
            raise ValueError(f"depth and hidden must be at least 1, got {self.depth, self.hidden}")
        if not 0 <= self.dropout < 1 or not self.temperature > 0:
            raise ValueError(
                f"dropout must be in [0, 1) and temperature positive, got "
                f"{self.dropout, self.temperature}"
            )

    @property
    def trained_on(self) -> Adapter:
        """The adapters of the first stage."""
        found: Adapter = resolve("adapting", self.sources)
        return found

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """Where the first stage's adapters stood inside transformers, and the transformers."""
        models = transformer_sites(network, "x_lora")
        inside = tuple(f"{model.path}." for model in models)
        found = super().choose(network)
        for site in found:
            if not site.path.startswith(inside):
                raise ValueError(f"x_lora mixes adapters inside transformers; {site!r} is in none")
        return [*found, *models]

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Wrap the pairs at the sites and the transformers; ``ValueError`` for other adapters."""
        firsts = {
            site.path: plain_pairs_at(site, "x_lora")
            for site in sites
            if isinstance(site.module, Adapted)
        }
        order = {path: number if self.layerwise else 0 for number, path in enumerate(firsts)}

        def bank(site: ModuleSite) -> SiteBank:
            if site.path in firsts:
                return _MixedBank(firsts[site.path], order[site.path])
            names = next(iter(firsts.values())).names
            return _Classifier(names, 1 + max(order.values()), site.module, self)

        return put(sites, routing, bank)


class _Classifier(SiteBank):
    """C of one transformer: rows of the experts [E, sites or 1, d], and the layers before."""

    def __init__(
        self, names: Sequence[str], places: int, model: nn.Module, settings: XLora
    ) -> None:
        super().__init__()
        config: Any = model.config
        width, layers = int(config.hidden_size), list[nn.Module]()
        for _ in range(settings.depth - 1):
            layers += [
                nn.Linear(width, settings.hidden, bias=False),
                nn.ReLU(),
                nn.Dropout(settings.dropout),
            ]
            width = settings.hidden
        self.layers = nn.Sequential(*layers)
        self.temperature = settings.temperature
        self.experts = Bank([None] * len(names), about=names)  # a row of each source, for all
        self.experts.add("score", places, width, start=uniform(width))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        """Run without adapters, then with the gates that this run gives."""
        with torch.no_grad(), routing.off():
            hidden: Tensor = base(*inputs, **named)[0]
        with routing.giving(gates=self.gates(hidden)):
            return base(*inputs, **named)

    def gates(self, hidden: Tensor) -> Tensor:
        """Shares of the experts [B, n, sites or 1, E] for states [B, n, d]."""
        scores = torch.einsum("bnd,esd->bnse", self.layers(hidden), self.experts.stack("score"))
        return (scores / self.temperature).softmax(-1)


class _MixedBank(SecondBank):
    """What stands at one site: the frozen pairs of the first stage."""

    def __init__(self, first: LowRankBank, place: int) -> None:
        super().__init__()
        self.first = (first,)  # frozen, and registered by the trunk
        self.place = place

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        """The frozen layer's output, and the pairs' as the gates say."""
        (first,) = self.first
        gates = routing.given("gates")[:, :, self.place] * first.scale
        return gated(x, y, first.stack("down"), first.stack("up"), gates)
