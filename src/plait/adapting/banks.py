"""Banks that several methods share: low-rank corrections, bottlenecks, and how rows read them.

The four ways of a row to its small modules, for stacks of T tasks or E experts:

- its own slice: :func:`low_rank` on gathered slices;
- parameters mixed by task weights, then as above: :func:`mixed`;
- outputs mixed by weights of the row or token: :func:`gated`, one product over all experts;
- every module's output: :meth:`BottleneckBank.every`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.base import Adapted, SiteBank
from plait.adapting.routing import Routing
from plait.networks.base import Start, TaskBank, normal, uniform, zeros
from plait.sites import ModuleSite, role_sites


class OwnBank(SiteBank, TaskBank):
    """A bank whose every parameter has one slice for each task."""


class LinearBank(SiteBank):
    """A bank at a linear layer that changes its output."""

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Tensor:  # noqa: ARG002
        """[B·n, d_in] or [B, ..., d_in], rows by task as routed → the same with d_out."""
        (x,) = inputs
        y: Tensor = base(x)
        return self.adapt(routing.by_row(x), routing.by_row(y), routing).view(y.shape)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        """Inputs [B, n, d_in] and the frozen outputs [B, n, d_out] → the outputs."""
        raise NotImplementedError


class SecondBank(LinearBank):
    """A bank of a second stage at a linear layer: it takes the place of the first stage's."""

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Tensor:
        """As any, on the frozen layer alone."""
        assert isinstance(base, Adapted)
        return super().forward(base.frozen, routing, *inputs, **named)


class PairBank(LinearBank):
    """A bank at a linear layer where each task's change is one low-rank product, ΔW = s·B A."""

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """(A [r, d_in], B [d_out, r]) of the task at that position."""
        raise NotImplementedError

    def factor(self, task: int) -> float:
        """What the product is scaled by, s."""
        raise NotImplementedError

    def change(self, task: int) -> Tensor:
        """ΔW [d_out, d_in] of the task at that position."""
        down, up = self.pair(task)
        return self.factor(task) * up @ down

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:
        """W₀ + ΔW."""
        return {"weight": base.get_parameter("weight") + self.change(task)}

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """The pair (A, B) under LoRA's names."""
        down, up = self.pair(task)
        return {"lora_A.weight": down, "lora_B.weight": up}


class LowRankBank(PairBank, OwnBank):
    """A [T, r, d_in] and B [T, d_out, r] of one linear layer, and the factors s [T].

    A ``frozen`` A stays as it is drawn.
    """

    scale: Tensor

    def __init__(
        self,
        names: Sequence[str],
        linear: nn.Linear,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        start: Start | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__(names)
        self.dropout = dropout
        self.rank = rank
        add = self.draw if frozen else self.add
        add("down", rank, linear.in_features, start=start or uniform(linear.in_features))
        self.add("up", linear.out_features, rank)
        self.note("scale", scale)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:
        """The frozen output plus s·B A x of the row's task."""
        x = F.dropout(x, self.dropout, self.training)
        down, up, scale = self.stack("down"), self.stack("up"), self.scale
        if len(down) == 1:  # as two plain layers, which round as peft's do
            return y + F.linear(F.linear(x, down[0]), up[0]) * scale
        task = routing.task
        return low_rank(x, y, *(each.index_select(0, task) for each in (down, up, scale)))

    def pair(self, task: int) -> tuple[Tensor, Tensor]:
        """(A_t, B_t)."""
        return self.stack("down")[task], self.stack("up")[task]

    def factor(self, task: int) -> float:
        """The task's s."""
        return float(self.scale[task])

    @torch.no_grad()
    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:
        """A pair of at most this rank; what it lacks is zero."""
        down, up = tensors["lora_A.weight"], tensors["lora_B.weight"]
        mine = self.stack("up")[task], self.stack("down")[task]
        if down.shape[1:] != mine[1].shape[1:] or up.shape[:1] != mine[0].shape[:1]:
            raise ValueError(
                f"the file has A {tuple(down.shape)} and B {tuple(up.shape)}, the network "
                f"A {tuple(mine[1].shape)} and B {tuple(mine[0].shape)}"
            )
        if len(down) > self.rank:
            raise ValueError(f"the file has rank {len(down)}, the network {self.rank}")
        mine[0].zero_()
        mine[1].zero_()
        mine[0][:, : len(down)] = up
        mine[1][: len(down)] = down
        self.scale[task] = scale


class CommonLowRankBank(PairBank):
    """A [1, r, d_in] and B [1, d_out, r] of one linear layer, for all tasks."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.down = shared(1, rank, linear.in_features, start=uniform(linear.in_features))
        self.up = shared(1, linear.out_features, rank, start=zeros)

    def adapt(self, x: Tensor, y: Tensor, routing: Routing) -> Tensor:  # noqa: ARG002
        """The frozen output plus s·B A x."""
        narrow = F.linear(F.dropout(x, self.dropout, self.training), self.down[0])
        return y + self.scale * F.linear(narrow, self.up[0])

    def pair(self, task: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """(A, B), the same for every task."""
        return self.down[0], self.up[0]

    def factor(self, task: int) -> float:  # noqa: ARG002
        """The scale s."""
        return self.scale


class BottleneckBank(OwnBank):
    """D [T, m, d], U [T, d, m] and biases: what a bottleneck adds, U_t f(D_t h + b_t) + b′_t.

    At a norm it reads what the norm says and adds before it, so that the norm is applied again;
    elsewhere it follows what stands there.
    """

    def __init__(
        self, names: Sequence[str], base: nn.Module, width: int, activation: str, std: float
    ) -> None:
        super().__init__(names)
        self.activation = activation
        self.again = type(base).__name__.endswith("Norm")
        self.bottleneck("", width, width_of(base), std)

    def bottleneck(self, which: str, width: int, d: int, std: float) -> None:
        """Add the matrices and biases of one bottleneck, by names of that prefix."""
        self.add(f"{which}down", width, d, start=normal(std))
        self.add(f"{which}down_bias", width)
        self.add(f"{which}up", d, width, start=normal(std))
        self.add(f"{which}up_bias", d)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        """Follow the base, or its norm, for each row by its task."""
        return self.around(base, inputs, named, lambda h: self.added(routing.by_row(h), routing))

    def around(
        self, base: nn.Module, inputs: Sequence[Any], named: Mapping[str, Any], added: Any
    ) -> Any:
        """The base's output with ``added(h)`` put where this bank puts what it adds."""
        found = base(*inputs, **named)
        h, *rest = found if isinstance(found, tuple) else (found,)
        extra = added(h).view(h.shape)
        if self.again:
            return base(inputs[0] + extra)
        return (h + extra, *rest) if isinstance(found, tuple) else h + extra

    def added(self, h: Tensor, routing: Routing) -> Tensor:
        """[B, n, d] → what the row's own bottleneck adds, [B, n, d]."""
        return self.through(h, routing, "")

    def through(self, h: Tensor, routing: Routing, which: str) -> Tensor:
        """[B, n, d] → what the row's slices of the bottleneck of that prefix say, [B, n, d]."""
        down, down_bias, up, up_bias = (
            self.stack(f"{which}{name}").index_select(0, routing.task)
            for name in ("down", "down_bias", "up", "up_bias")
        )
        inner = torch.baddbmm(down_bias.unsqueeze(1), h, down.transpose(1, 2))
        inner = ACTIVATIONS[self.activation](inner)
        return torch.baddbmm(up_bias.unsqueeze(1), inner, up.transpose(1, 2))

    def every(self, h: Tensor) -> Tensor:
        """[B, n, d] → what each task's bottleneck would add, [B, n, T, d]."""
        down, up = self.stack("down"), self.stack("up")
        inner = F.linear(h, down.flatten(0, 1), self.stack("down_bias").flatten())
        inner = ACTIVATIONS[self.activation](inner).view(*h.shape[:-1], *down.shape[:2])
        return torch.einsum("bntm,tdm->bntd", inner, up) + self.stack("up_bias")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "silu": F.silu,
}


def low_rank(x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: Tensor | float) -> Tensor:
    """Y + s·B A x, all by row: x [B, n, i], y [B, n, o], A [B, r, i], B [B, o, r], s [B] or one."""
    narrow = torch.bmm(x, down.transpose(1, 2))
    narrow = narrow * (scale.view(-1, 1, 1) if isinstance(scale, Tensor) else scale)
    return torch.baddbmm(y, narrow, up.transpose(1, 2))


def mixed(weights: Tensor, stack: Tensor, task: Tensor) -> Tensor:
    """Σ_e w[t, e]·stack[e] for each row's task: weights [T, E], stack [E, ...] → [B, ...].

    With weights [T, H, E] and a stack [E, H, ...] each of H blocks has its own. Mixed once a task
    where tasks are fewer than rows, else once a row.
    """
    if weights.ndim == 2:
        return mixed(weights.unsqueeze(1), stack.unsqueeze(1), task).squeeze(1)
    form, flat = (*stack.shape[1:],), stack.flatten(2)
    if len(task) < len(weights):
        each = torch.einsum("bhe,ehk->bhk", weights.index_select(0, task), flat)
        return each.view(len(task), *form)
    absent = torch.ones(len(weights), dtype=torch.bool, device=task.device)
    absent = absent.index_fill(0, task, False)
    # A broken row of an absent task must not reach the gradient of what is shared.
    weights = weights.masked_fill(absent.view(-1, 1, 1), 0.0)
    each = torch.einsum("the,ehk->thk", weights, flat)
    return each.index_select(0, task).view(len(task), *form)


def gated(x: Tensor, y: Tensor, down: Tensor, up: Tensor, gates: Tensor) -> Tensor:
    """Y + Σ_e g_e B_e A_e x, by one product over all experts.

    x [B, n, i], y [B, n, o], A [E, r, i], B [E, o, r], g [B, n, E] (or [B, 1, E]).
    """
    narrow = F.linear(x, down.flatten(0, 1)).view(*x.shape[:-1], *down.shape[:2])
    narrow = (narrow * gates.unsqueeze(-1)).flatten(2)
    return y + F.linear(narrow, up.transpose(0, 1).flatten(1))


def near_zero(slice_: Tensor, generator: torch.Generator) -> None:
    """Start logits of skills from U(±1e-3)."""
    slice_.uniform_(-1e-3, 1e-3, generator=generator)


def skill_shares(logits: Tensor, *, noise: bool) -> Tensor:
    """Polytropon's shares [..., E] of skills, σ(logits) that are made to sum to 1.

    With ``noise`` relaxed Bernoulli at temperature 1, σ(logits + logistic noise).
    """
    if noise:
        logits = logits + torch.rand_like(logits).clamp(1e-6, 1 - 1e-6).logit()
    open_ = logits.sigmoid()
    return open_ / (open_.sum(-1, keepdim=True) + 1e-12)


def shared(count: int, *shape: int, start: Start) -> nn.Parameter:
    """A stack [count, *shape] for all tasks, each slice started by itself."""
    found = torch.empty(count, *shape)
    for slice_ in found:
        start(slice_, torch.default_generator)
    return nn.Parameter(found)


def lora_config(
    banks: Mapping[str, SiteBank], task: int, dropout: float, *, root: bool = False, **more: bool
) -> dict[str, Any]:
    """Peft's configuration for banks of one low-rank pair a task.

    ``root`` writes the factor as rsLoRA's α/√r, else as α/r.
    """
    bank = next(iter(banks.values()))
    assert isinstance(bank, PairBank)
    rank = len(bank.pair(task)[0])
    alpha = bank.factor(task) * (rank**0.5 if root else rank)
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": dropout,
        "bias": "none", "fan_in_fan_out": False, "use_rslora": root, "rank_pattern": {},
        "alpha_pattern": {}, "layers_to_transform": None, **more,
    }  # fmt: skip


def check_low_rank(rank: int, dropout: float = 0.0) -> None:
    """``ValueError`` for a rank below one or a dropout outside of [0, 1)."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


def linear_at(site: ModuleSite, who: str, rank: int | None = None) -> nn.Linear:
    """The linear layer at a site; ``ValueError`` for another type, or a rank that is too high."""
    linear = site.module
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{who} adapts linear layers; {site!r} is none")
    least = min(linear.in_features, linear.out_features)
    if rank is not None and rank > least:
        raise ValueError(
            f"rank {rank} is above the smaller side of {site.path} ({linear.in_features} → "
            f"{linear.out_features}); give a rank of at most {least}, or name other sites"
        )
    return linear


def trained_at(site: ModuleSite, kind: type[SiteBank], who: str) -> Any:
    """The frozen bank of the first stage at a site; ``ValueError`` where it is of another kind."""
    first = site.module
    if not isinstance(first, Adapted) or not isinstance(first.bank, kind):
        raise ValueError(f"{who} combines banks of type {kind.__name__}; {site!r} has none")
    return first.bank


def plain_pairs_at(site: ModuleSite, who: str) -> LowRankBank:
    """The first stage's low-rank pairs at a site; ``ValueError`` for such that are more than it."""
    found: LowRankBank = trained_at(site, LowRankBank, who)
    if type(found) is not LowRankBank:
        raise ValueError(f"{who} mixes plain pairs, as lora's; {site.path} has others")
    return found


def width_of(base: nn.Module) -> int:
    """The width of what a linear layer, a norm or a transformer's block gives."""
    if isinstance(base, nn.Linear):
        return base.out_features
    if type(base).__name__.endswith("Norm"):
        return int(next(base.parameters()).shape[-1])
    for site in role_sites(base, "attention_output"):
        return int(site.module.get_parameter("weight").shape[0])
    raise ValueError(f"the width of a {type(base).__name__} cannot be told")
