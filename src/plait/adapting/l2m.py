r"""A pool of low-rank modulators, of which each text takes the one whose key it resembles most.

    y_b = W₀ x_b + s · B_j A_j x_b,   j = argmax_i cos(q_b, κ_i),   s = alpha / rank

for each token x of row b, with the query q_b [d] the mean of its embedded words and the keys κ
[m, d]; no task is asked for, and all tasks share the pool. A [m, r, d_in] starts from U(±1/√d_in)
in each modulator, B [m, d_out, r] from 0, κ from U(±1): the adapted network begins as the frozen
one. Choosing gives the keys no gradient: they learn from −c · mean_b cos(q_b, κ_j) alone, which is
added to the loss, c = ``pull``. Parameters for each site: m·r·(d_in + d_out), and m·d once.

    >>> from plait.adapting.l2m import L2m
    >>> L2m(rank=4).settings()["pool"]
    30
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import LinearBank, check_low_rank, linear_at, low_rank, shared
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.reading import word_width, words_mean
from plait.adapting.routing import Routing
from plait.adapting.virtual import transformer_sites
from plait.method import Card, Law, Paper
from plait.networks.base import uniform, zeros
from plait.sites import ModuleSite
from plait.task import TaskSet

KEYS = "the keys learn from how well they match, and from no task's loss"


@dataclass(frozen=True, kw_only=True)
class L2m(Adapter):
    """L2M; ``pool`` modulators, whose keys are pulled to what chose them by ``pull``."""

    pool: int = 30
    rank: int = 8
    alpha: float = 16.0
    pull: float = 0.5
    sites: Sequence[str] = ()
    places = (("query", "value", "inner", "outer"),)
    transformers_only = True

    card = Card(
        family="adapting",
        name="l2m",
        summary="A pool of low-rank modulators; each text takes the one that it resembles.",
        paper=Paper(
            title="Learning to Modulate pre-trained Models in RL",
            authors="Thomas Schmied and Markus Hofmarcher and Fabian Paischer and Razvan Pascanu "
            "and Sepp Hochreiter",
            year=2023,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2306.14884",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "on texts instead of states, and with heads instead of actions",
            "tasks train together: no counts even out what a second task in a sequence chooses",
            "A starts from each modulator's own bound; the authors' code takes the whole stack's",
        ),
        exceptions={"reach_is_exact": KEYS, "frozen_stays_frozen": KEYS},
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank)
        if self.pool < 1:
            raise ValueError(f"pool must be at least 1, got {self.pool}")
        if self.pull < 0:
            raise ValueError(f"pull must not be negative, got {self.pull}")

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The linear layers, and the transformers whose words are read."""
        return [*super().choose(network), *transformer_sites(network, "l2m")]

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Wrap the linear layers, and put the keys at the transformers."""

        def bank(site: ModuleSite) -> SiteBank:
            if not isinstance(site.module, nn.Linear):
                return _Keys(self.pool, word_width(site), self.pull)
            return _Modulators(linear_at(site, "l2m", self.rank), self)

        return put(sites, routing, bank)


class _Keys(SiteBank):
    """κ [m, d] of one transformer."""

    def __init__(self, pool: int, width: int, pull: float) -> None:
        super().__init__()
        self.pull = pull
        self.keys = shared(pool, width, start=uniform(1))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        query = words_mean(base, named["input_ids"], named["attention_mask"])
        best, chosen = F.linear(F.normalize(query, dim=1), F.normalize(self.keys, dim=1)).max(1)
        routing.penalise("l2m", -self.pull * routing.share * best.mean())
        with routing.giving(modulator=chosen):
            return base(*inputs, **named)


class _Modulators(LinearBank):
    """A [m, r, d_in] and B [m, d_out, r] of one site."""

    def __init__(self, linear: nn.Linear, settings: L2m) -> None:
        super().__init__()
        inside, rank = linear.in_features, settings.rank
        self.scale = settings.alpha / rank
        self.down = shared(settings.pool, rank, inside, start=uniform(inside))
        self.up = shared(settings.pool, linear.out_features, rank, start=zeros)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        chosen = routing.given("modulator")
        down, up = self.down.index_select(0, chosen), self.up.index_select(0, chosen)
        return low_rank(x, y, down, up, self.scale)
