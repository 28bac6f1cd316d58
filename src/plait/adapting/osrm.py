r"""LoRA whose tasks start reading where the inputs of all other tasks have nothing.

    y_b = W₀ x_b + s · B_t A_t drop(x_b),   t = task of row b,   s = alpha / rank
    A_t = the eigenvectors of Σ_{u ≠ t} C_u with the r smallest eigenvalues,   C_u = Σ x xᵀ / n_u

C_u [d_in, d_in] is over the n_u tokens x that reach this layer from the first ``samples`` rows of
task u; every task weighs the same. The rows of A_t [r, d_in] are orthonormal, and Σ ‖A_t x‖² over
what the other tasks send is the least possible: 0 where that leaves r directions free. Then B_t A_t
does not move the other tasks' outputs, and adapters can be merged. Of a larger free space A_t has
the part nearest to LoRA's start, which the task's name draws. B starts from 0; A trains on, or with
``frozen`` stays. :meth:`Osrm.begin` looks at the data, float64, T·d_in² numbers a site; without it
A starts as LoRA's. Parameters: T·r·(d_in + d_out) for each site, or T·r·d_out.

    >>> from plait.adapting.osrm import Osrm
    >>> Osrm(rank=4).card.needs
    frozenset({<Need.FEATURES: 'features'>})
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import LowRankBank, check_low_rank, linear_at, lora_config
from plait.adapting.base import Adapted, Adapter, SiteBank, outermost, put
from plait.adapting.routing import Routing
from plait.batch import Batch, Records
from plait.method import Card, Law, Need, Paper
from plait.networks.base import Trunk
from plait.networks.network import evaluating
from plait.networks.transformer import Transformer
from plait.sites import ModuleSite
from plait.task import TaskSet

FREE = 1e-12  # of the largest eigenvalue, for each dimension: below it nothing is there


@dataclass(frozen=True, kw_only=True)
class Osrm(Adapter):
    """Orthogonal subspaces; ``samples`` rows of each task are looked at before training."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    samples: int = 100
    frozen: bool = False
    sites: Sequence[str] = ()

    card = Card(
        family="adapting",
        name="osrm",
        summary="LoRA that starts where the inputs of all other tasks have nothing.",
        paper=Paper(
            title="Unraveling LoRA Interference: Orthogonal Subspaces for Robust Model Merging",
            authors="Haobo Zhang and Jiayu Zhou",
            year=2025,
            venue="ACL",
            url="https://arxiv.org/abs/2505.22934",
        ),
        needs=frozenset({Need.FEATURES}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "every real token counts; the authors' code keeps one mean vector of each task",
        ),
    )

    def __post_init__(self) -> None:
        check_low_rank(self.rank, self.dropout)
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            linear, scale = linear_at(site, "osrm", self.rank), self.alpha / self.rank
            return LowRankBank(
                tasks.names, linear, self.rank, scale, self.dropout, frozen=self.frozen
            )

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As LoRA."""
        return lora_config(banks, task, self.dropout)

    @torch.no_grad()
    def begin(self, trunk: Trunk, batches: Iterable[Batch]) -> None:
        """Start every A from what reaches its layer; ``ValueError`` where there is no row."""
        layers = list(outermost(trunk).values())
        found = [_Moments(layer, len(trunk.tasks)) for layer in layers]
        with _watching(trunk, found), evaluating(trunk):
            for batch, asked in _first(batches, trunk.tasks, self.samples):
                trunk(batch.parts, asked)
        if not any(one.count.any() for one in found):
            raise ValueError("osrm starts from rows of the tasks, and there is none")
        for layer, one in zip(layers, found, strict=True):
            assert isinstance(layer.bank, LowRankBank)
            down = layer.bank.stack("down")
            each = one.sums / one.count.clamp(min=1).view(-1, 1, 1)
            every = each.sum(0)
            for own, start in zip(each, down, strict=True):
                start.copy_(_least(every - own, start.double(), float(every.trace())))


def _least(moment: Tensor, start: Tensor, size: float) -> Tensor:
    """Orthonormal rows [r, d] with the least of a moment [d, d] in them, as near to a start."""
    values, vectors = torch.linalg.eigh(moment)
    free = int((values <= FREE * len(values) * size).sum())
    found: Tensor = vectors[:, : len(start)]
    if free > len(start):
        inside = vectors[:, :free]
        found = torch.linalg.qr(inside @ (inside.T @ start.T)).Q
    return found.T


class _Moments:
    """Σ x xᵀ [T, d, d] of the real tokens that reach one layer, and their number [T]."""

    def __init__(self, layer: Adapted, tasks: int) -> None:
        weight = layer.frozen.get_parameter("weight")
        d = weight.shape[1]
        self.layer = layer
        self.sums = torch.zeros(tasks, d, d, dtype=torch.float64, device=weight.device)
        self.count = torch.zeros(tasks, dtype=torch.float64, device=weight.device)
        self.mask: Tensor | None = None

    def note(self, _: nn.Module, inputs: Sequence[Any], named: Mapping[str, Any]) -> None:  # noqa: ARG002
        """A transformer begins: which of its tokens are real."""
        self.mask = named["attention_mask"].bool()

    def add(self, _: nn.Module, inputs: Sequence[Any]) -> None:
        """The layer begins."""
        routing = self.layer.routing
        x, task = routing.by_row(inputs[0]).double(), routing.task
        inside = self.mask is not None and self.mask.shape == x.shape[:2]
        for number in torch.unique(task).tolist():
            mine = task == number
            rows = x[mine]
            own = rows[self.mask[mine]] if inside and self.mask is not None else rows.flatten(0, 1)
            self.sums[number] += own.T @ own
            self.count[number] += len(own)


@contextmanager
def _watching(trunk: Trunk, found: Sequence[_Moments]) -> Iterator[None]:
    """Inside, what reaches the layers is added up."""
    models = [m.model for m in trunk.modules() if isinstance(m, Transformer)]
    hooks = [one.layer.frozen.register_forward_pre_hook(one.add) for one in found]
    for model in models:
        hooks += [model.register_forward_pre_hook(one.note, with_kwargs=True) for one in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first(
    batches: Iterable[Batch], tasks: TaskSet, samples: int
) -> Iterator[tuple[Batch, dict[str, Records]]]:
    """The batches with the first records of every task."""
    left = dict.fromkeys(tasks.names, samples)
    for batch in batches:
        asked = {}
        for group, labels in batch.labels.items():
            kept = torch.zeros_like(labels.task, dtype=torch.bool)
            for name, place in tasks.groups[group].position.items():
                mine = (labels.task == place).nonzero()[: left[name], 0]
                kept[mine] = True
                left[name] -= len(mine)
            if kept.any():
                asked[group] = Records(labels.task[kept], labels.rows[kept])
        if asked:
            yield batch, asked
        if not any(left.values()):
            return
