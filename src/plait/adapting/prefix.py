r"""Keys and values of each task, read by every attention layer beside those of the text.

    K ← [K_t; K],   V ← [V_t; V]   in every layer,   t = the row's task

The prefix [T, n, layers, 2, heads, d / heads] starts from N(0, std²). With ``hidden`` it is made
from E_t [n, d] by a small network of the task, tanh(E_t W₁ + b₁) W₂ + b₂, which trains more evenly;
what it makes can replace it after training. Positions of the text count the prefix, as in peft.
Parameters: T·n·2·layers·d (without ``hidden``). Only for transformers that take past keys and
values.

    >>> from plait.adapting.prefix import Prefix
    >>> Prefix(length=5).settings()["length"]
    5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import OwnBank
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.virtual import attention_shape, check_room, transformer_sites, with_prefix
from plait.method import Card, Law, Paper
from plait.networks.base import normal, uniform
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Prefix(Adapter):
    """Prefix tuning; ``hidden``: width of the network that makes the prefix, 0 for none."""

    length: int = 20
    hidden: int = 0
    std: float = 0.02
    sites: Sequence[str] = ()
    transformers_only = True

    card = Card(
        family="adapting",
        name="prefix",
        summary="Keys and values of each task, read by every attention layer.",
        paper=Paper(
            title="Prefix-Tuning: Optimizing Continuous Prompts for Generation",
            authors="Xiang Lisa Li and Percy Liang",
            year=2021,
            venue="ACL",
            url="https://arxiv.org/abs/2101.00190",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("hidden is 0 by default, as in peft; the paper makes the prefix by a network",),
        exceptions={
            "fresh_adapter_changes_nothing": "a prefix takes attention even where it is zero",
        },
    )

    def __post_init__(self) -> None:
        if self.length < 1 or self.hidden < 0:
            raise ValueError(
                f"length must be at least 1 and hidden not negative, got {self.length, self.hidden}"
            )

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The whole transformers."""
        return transformer_sites(network, self.card.name, self.sites)

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """A bank for each transformer; ``ValueError`` where it cannot read one."""

        def bank(site: ModuleSite) -> SiteBank:
            check_room(site, self.length, self.card.name, "past_key_values")
            return _PrefixBank(tasks.names, self, attention_shape(site.module))

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As prefix tuning."""
        (bank,) = banks.values()
        assert isinstance(bank, _PrefixBank)
        layers, heads, width = bank.shape
        return {
            "peft_type": "PREFIX_TUNING", "num_virtual_tokens": bank.lengths(task),
            "token_dim": heads * width, "num_layers": layers, "num_attention_heads": heads,
            "num_transformer_submodules": 1, "prefix_projection": False,
        }  # fmt: skip


class _PrefixBank(OwnBank):
    """The prefixes [T, n, 2·layers·d], or what makes them."""

    def __init__(self, names: Sequence[str], settings: Prefix, shape: tuple[int, int, int]) -> None:
        super().__init__(names)
        layers, heads, width = self.shape = shape
        d, whole, hidden = heads * width, 2 * layers * heads * width, settings.hidden
        self.made = hidden > 0
        inside = d if hidden else whole
        self.add("prefix", settings.length, inside, start=normal(settings.std))
        if hidden:
            self.add("first", d, hidden, start=uniform(d))
            self.add("first_bias", 1, hidden, start=uniform(d))
            self.add("second", hidden, whole, start=uniform(hidden))
            self.add("second_bias", 1, whole, start=uniform(hidden))
        self.note("length", float(settings.length))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:  # noqa: ARG002
        own = self._of(routing.task)
        length = self.get_buffer("length").index_select(0, routing.task)
        layers, heads, width = self.shape
        return with_prefix(base, own.view(*own.shape[:2], layers, 2, heads, width), length, **named)

    def _of(self, task: Tensor) -> Tensor:
        """The prefixes of these tasks [B, n, 2·layers·d]."""
        own = self.stack("prefix").index_select(0, task)
        if not self.made:
            return own
        first, first_bias, second, second_bias = (
            self.stack(name).index_select(0, task)
            for name in ("first", "first_bias", "second", "second_bias")
        )
        inner = torch.baddbmm(first_bias, own, first).tanh()
        return torch.baddbmm(second_bias, inner, second)

    def lengths(self, task: int) -> int:
        """How many vectors a task has."""
        return int(self.get_buffer("length")[task])

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """The prefix itself under peft's name."""
        where = torch.tensor([task], device=self.stack("prefix").device)
        return {"prompt_embeddings": self._of(where)[0, : self.lengths(task)]}

    @torch.no_grad()
    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:  # noqa: ARG002
        """A prefix of at most this length; the vectors it lacks are not read."""
        own, given = self.stack("prefix")[task], tensors["prompt_embeddings"]
        if self.made:
            raise ValueError("a prefix that a network makes takes none from a file; use hidden: 0")
        if given.shape[1] != own.shape[1] or len(given) > len(own):
            raise ValueError(f"the file has {tuple(given.shape)}, the network {tuple(own.shape)}")
        own.zero_()
        own[: len(given)] = given
        self.get_buffer("length")[task] = len(given)
