r"""Experts of rank one whose gates join what a token says with what its text resembles.

    y = W₀ x + σ(100 γ) · B Gᵀ A x′,   x′ = drop(x)
    G = 32 · ω′ · softmax(R x) + 4 · (1 − ω′) · s,   ω′ = σ(100 ω),   s = C e

for each token x [d_in] of a text with the intuition s [E]: how much its embedding e [k], of length
one, resembles each of E centroids C [E, k] of the training texts. A [r, d_in], B [d_out, q], and G
[r, q] of E = r·q numbers: every pair of a row of A and a column of B is an expert
(``kind="pairs"``). With ``matched``, r = q = E and G is diagonal: one B for each A. A starts from
U(±1/√d_in), B and R [E, d_in] from 0, the scalars ω and γ of a site from 0: the adapted network
begins as the frozen one. Gates of tokens sum to 32·ω′ of themselves; those of texts are not
normalised and may be negative. All tasks share these parameters. e is the mean of the frozen
transformer's last states, found by a first pass; the centroids are k-means of the training texts.
Parameters for each site: r·d_in + q·d_out + E·d_in + 2.

    >>> from plait.adapting.mor1e import Mor1e
    >>> Mor1e().experts, Mor1e(kind="matched", rank=6).experts
    (32, 6)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.banks import LinearBank, check_low_rank, linear_at, shared
from plait.adapting.base import Adapter, SiteBank, outermost, put
from plait.adapting.reading import mean_of
from plait.adapting.routing import Routing
from plait.adapting.virtual import transformer_sites
from plait.batch import Batch
from plait.method import Card, Law, Need, Paper, did_you_mean
from plait.networks.base import Trunk, uniform, zeros
from plait.networks.network import evaluating
from plait.sites import ModuleSite
from plait.task import TaskSet

KINDS = ("pairs", "matched")
BY_TOKEN, BY_TEXT = 32.0, 4.0  # the weights of both gates
FAST = 100.0  # what the scalars are multiplied by, so that they learn faster

FLAT = "a scalar that noise moved is a hundred times as far along a sigmoid, where it is flat"


@dataclass(frozen=True, kw_only=True)
class Mor1e(Adapter):
    """Intuition-MoR1E; ``rank`` is r, ``rank_out`` q, which ``matched`` does not read."""

    kind: str = "pairs"
    rank: int = 4
    rank_out: int = 8
    dropout: float = 0.0
    sites: Sequence[str] = ()
    transformers_only = True

    card = Card(
        family="adapting",
        name="mor1e",
        summary="Experts of rank one whose gates see the token and what its text resembles.",
        paper=Paper(
            title="Intuition-aware Mixture-of-Rank-1-Experts for Parameter Efficient Finetuning",
            authors="Yijiang Liu and Rongyu Zhang and Huanrui Yang and Kurt Keutzer and Yuan Du "
            "and Li Du and Shanghang Zhang",
            year=2024,
            url="https://arxiv.org/abs/2404.08985",
        ),
        needs=frozenset({Need.FEATURES}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "texts are embedded by the frozen transformer; the authors run a sentence encoder",
            "there are as many centroids as experts; theirs may be mapped to another number",
        ),
        exceptions={
            "reach_is_exact": FLAT,
            "frozen_stays_frozen": FLAT,
            "learns": "in the law's setting, and at smaller rates, it takes off less than is asked",
        },
    )

    def __post_init__(self) -> None:
        check_low_rank(min(self.rank, self.rank_out), self.dropout)
        if self.kind not in KINDS:
            raise ValueError(f"no kind {self.kind!r}{did_you_mean(self.kind, KINDS)}")

    @property
    def experts(self) -> int:
        """How many experts, and centroids, there are."""
        return self.rank * (self.rank_out if self.kind == "pairs" else 1)

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The linear layers, and the transformers whose texts are embedded."""
        return [*super().choose(network), *transformer_sites(network, "mor1e")]

    def attach(
        self,
        sites: Sequence[ModuleSite],
        tasks: TaskSet,  # noqa: ARG002
        routing: Routing,
    ) -> nn.ModuleDict:
        """Wrap the linear layers, and put the centroids at the transformers."""

        def bank(site: ModuleSite) -> SiteBank:
            if not isinstance(site.module, nn.Linear):
                return _Intuition(self.experts, int(site.module.config.hidden_size))  # type: ignore[union-attr, arg-type]
            most = max(self.rank, self.rank_out if self.kind == "pairs" else 1)
            return _PairedBank(linear_at(site, "mor1e", most), self)

        return put(sites, routing, bank)

    def begin(self, trunk: Trunk, batches: Iterable[Batch]) -> None:
        """Cluster the embeddings of the texts in the batches.

        Raises ``ValueError`` where there are fewer texts than centroids.
        """
        banks = [layer.bank for layer in outermost(trunk).values()]
        readers = [bank for bank in banks if isinstance(bank, _Intuition)]
        for reader in readers:
            reader.seen = []
        with torch.no_grad(), evaluating(trunk):
            for batch in batches:
                trunk(batch.parts, batch.labels)
        for reader in readers:
            reader.cluster()


class _Intuition(SiteBank):
    """C [E, k] of one transformer."""

    centroids: Tensor

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.zeros(experts, width))
        self.seen: list[Tensor] | None = None

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        with routing.off(), torch.no_grad():
            states = base(*inputs, **named)[0]
            embedded = F.normalize(mean_of(states, named["attention_mask"]), dim=1)
        if self.seen is not None:
            self.seen.append(embedded)
        with routing.giving(intuition=F.linear(embedded, self.centroids)):
            return base(*inputs, **named)

    def cluster(self) -> None:
        """Put the centroids where k-means finds them among the texts that were seen."""
        from sklearn.cluster import KMeans

        found, self.seen = torch.cat(self.seen or [self.centroids[:0]]).cpu().double(), None
        if len(found) < len(self.centroids):
            raise ValueError(
                f"mor1e has {len(self.centroids)} experts, one for each cluster of texts, and "
                f"there are {len(found)} texts; give a lower rank or rank_out"
            )
        means = KMeans(len(self.centroids), n_init=1, random_state=0).fit(found.numpy())
        self.centroids.copy_(torch.from_numpy(means.cluster_centers_))


class _PairedBank(LinearBank):
    """A [r, d_in], B [d_out, q], R [E, d_in], ω and γ of one site."""

    def __init__(self, linear: nn.Linear, settings: Mor1e) -> None:
        super().__init__()
        inside, rank = linear.in_features, settings.rank
        self.dropout, self.paired = settings.dropout, settings.kind == "pairs"
        out = settings.rank_out if self.paired else rank
        self.down = shared(rank, inside, start=uniform(inside))
        self.up = shared(linear.out_features, out, start=zeros)
        self.router = shared(settings.experts, inside, start=zeros)
        self.blend = nn.Parameter(torch.zeros(1))
        self.opening = nn.Parameter(torch.zeros(1))

    def gates(self, x: Tensor, intuition: Tensor) -> Tensor:
        """The gates [B, n, E] of tokens [B, n, d_in] in texts with these intuitions [B, E]."""
        blend = (FAST * self.blend).sigmoid()
        by_token = F.linear(x, self.router).softmax(-1)
        return BY_TOKEN * blend * by_token + BY_TEXT * (1 - blend) * intuition.unsqueeze(1)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        gates = self.gates(x, routing.given("intuition"))
        narrow = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        if self.paired:
            gates = gates.view(*gates.shape[:2], self.down.shape[0], self.up.shape[1])
            narrow = (narrow.unsqueeze(-2) @ gates).squeeze(-2)
        else:
            narrow = narrow * gates
        return y + (FAST * self.opening).sigmoid() * F.linear(narrow, self.up)
