r"""The trained low-rank adapters of all tasks as a library, mixed for each token without training.

    y = W₀ x + Σ_e g_e s_e B_e A_e x,   g = softmax(top_k |P x| / temperature)

for each token x [d_in]. P [E, d_in] are prototypes, one for each task e of the first stage: the
right singular vector of ΔW_e = B_e A_e with the largest singular value, the direction of inputs
that this adapter answers most. Its sign means nothing, hence the size of the product; x is not
normalised, so the temperature must suit it (0 for √d_in). ``top`` keeps the k largest products, 0
all. The prototypes are exact, from an SVD of r×r numbers: with Aᵀ = Q R and B = Q′ R′, R′ Rᵀ =
U Σ Vᵀ gives P = Q V₁. Nothing trains but the heads. Parameters: 0; stored: E·d_in for each site.

    >>> from plait.adapting.arrow import Arrow
    >>> Arrow(top=2).trained_on.card.name
    'lora'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import LowRankBank, SecondBank, gated, plain_pairs_at
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Method, Paper, resolve
from plait.sites import ModuleSite
from plait.task import TaskSet

NOTHING = "there is nothing to train but the heads"


@dataclass(frozen=True, kw_only=True)
class Arrow(Adapter):
    """Arrow routing over the adapters ``sources``."""

    sources: Method | str = "lora"
    top: int = 0
    temperature: float = 1.0
    sites: Sequence[str] = ()
    parts = {"sources": "adapting"}  # noqa: RUF012

    card = Card(
        family="adapting",
        name="arrow",
        summary="The trained LoRAs of all tasks, mixed for each token without training.",
        paper=Paper(
            title="Towards Modular LLMs by Building and Reusing a Library of LoRAs",
            authors="Oleksiy Ostapenko and Zhan Su and Edoardo Maria Ponti and Laurent Charlin "
            "and Nicolas Le Roux and Matheus Pereira and Lucas Caccia and Alessandro Sordoni",
            year=2024,
            venue="ICML",
            url="https://arxiv.org/abs/2405.11157",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("prototypes are exact; peft finds them by 15 steps of the power method",),
        exceptions={
            "fresh_adapter_changes_nothing": "rows hear a mixture, not their own task's adapter",
            "more_tasks_change_no_output": "more tasks are more adapters to mix",
            "only_banks_train": NOTHING,
            "learns": NOTHING,
        },
    )

    def __post_init__(self) -> None:
        if self.top < 0 or self.temperature < 0:
            raise ValueError(
                f"top and temperature must not be negative, got {self.top, self.temperature}"
            )

    @property
    def trained_on(self) -> Adapter:
        """The adapters of the first stage."""
        found: Adapter = resolve("adapting", self.sources)
        return found

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Stand where the first stage's adapters stood; ``ValueError`` where they are no pairs."""

        def bank(site: ModuleSite) -> SiteBank:
            return _LibraryBank(plain_pairs_at(site, "arrow"), self)

        return put(sites, routing, bank)


class _LibraryBank(SecondBank):
    """The frozen pairs of one site and their prototypes P [E, d_in]."""

    prototypes: Tensor

    def __init__(self, first: LowRankBank, settings: Arrow) -> None:
        super().__init__()
        self.first = (first,)  # frozen, and registered by the trunk
        self.top = settings.top
        found = prototypes(first.stack("down").detach(), first.stack("up").detach())
        self.temperature = settings.temperature or found.shape[1] ** 0.5
        self.register_buffer("prototypes", found)

    def gates(self, x: Tensor) -> Tensor:
        """The shares of the adapters [B, n, E] for tokens x [B, n, d_in]."""
        scores = F.linear(x, self.prototypes).abs() / self.temperature
        if 0 < self.top < scores.shape[-1]:
            best = scores.topk(self.top, dim=-1)
            scores = torch.full_like(scores, -torch.inf).scatter(-1, best.indices, best.values)
        return scores.softmax(-1)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:  # noqa: ARG002
        (first,) = self.first
        gates = self.gates(x) * first.scale
        return gated(x, y, first.stack("down"), first.stack("up"), gates)


def prototypes(down: Tensor, up: Tensor) -> Tensor:
    """The first right singular vectors [E, d_in] of B A, for A [E, r, d_in] and B [E, d_out, r]."""
    wide = torch.promote_types(down.dtype, torch.float32)
    inside, right = torch.linalg.qr(down.to(wide).transpose(1, 2))
    left = torch.linalg.qr(up.to(wide)).R
    first = torch.linalg.svd(left @ right.transpose(1, 2)).Vh[:, :1]
    found: Tensor = (first @ inside.transpose(1, 2)).squeeze(1)
    return found
