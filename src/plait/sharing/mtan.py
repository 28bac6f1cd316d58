r"""One convolutional network for all tasks, and for each task masks over the maps of its stages.

Stage j of the shared network has the maps u_j before its last block and p_j after it, [C_j, h, w].
Task t masks them by what it sees there and by what its own stream has come to:

    a_tj = σ(norm(W2_tj · ReLU(norm(W1_tj · [u_j; f_t,j−1]))))            [C_j, h, w]
    f_tj = fit(g_j(a_tj ⊙ p_j))

W1, W2 are 1×1 convolutions of the task, C_j/4 wide between; g_j, a 3×3 convolution with norm and
ReLU, is shared by all tasks; ``fit`` takes maxima down to the next stage's size, or straight lines
up to it. There is no f before the first stage and no g after the last. The stages are the scales
of a pyramid, down and up again, and the features of task t are a_t ⊙ p of the last; a row's vector
is their mean. The shared network runs once for an image, whatever tasks ask for it. Parameters,
with C_m = max(C_j/4, 1) and C_g = u_j+1's channels: the encoder's, and Σ_j T·(C_in·C_m + 3·C_m +
C_m·C_j + 3·C_j) + (9·C_j + 3)·C_g.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="day"), Task(name="edge", kind="boundaries")])
    >>> network = build_network(
    ...     inputs={"image.i": Input(key="image.i", type="image", shape=(1, 8, 8))}, tasks=tasks,
    ...     encoder={
    ...         "image": {"pyramid": {"channels": 4, "depth": 1, "width": 8, "stride": 1}},
    ...         "trunk": {"mlp": {"depth": 0}},
    ...     },
    ...     sharing=Mtan(), seed=0,
    ... )
    >>> pyramid = (9 + 3) * 4 + (9 * 4 + 3) * 4 + (4 + 1) * 8 + (9 * 8 + 3) * 8
    >>> down = 2 * (4 * 1 + 3 * 1 + 1 * 4 + 3 * 4) + (9 * 4 + 3) * 8
    >>> up = 2 * ((8 + 8) * 2 + 3 * 2 + 2 * 8 + 3 * 8)
    >>> sum(p.numel() for p in network.trunk.parameters()) == pyramid + down + up
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from plait.kinds import Place
from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, TaskBank, Trunk, ones, uniform
from plait.networks.maps import Maps, layer
from plait.networks.rows import RowTasks
from plait.sharing.base import at_least
from plait.sharing.pictures import Looks, Once, Pictures, fitted, normalised, pointwise, wrap_nets
from plait.sites import ModuleSite
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Mtan(Sharing):
    """Multi-task attention network; ``reduction``: by how much masks are narrower inside."""

    reduction: int = 4
    place: ClassVar[Place] = "pixel"

    card = Card(
        family="sharing",
        name="mtan",
        summary="One convolutional network, and each task's masks over the maps of its stages.",
        paper=Paper(
            title="End-to-End Multi-Task Learning with Attention",
            authors="Shikun Liu and Edward Johns and Andrew J. Davison",
            year=2019,
            venue="CVPR",
            url="https://arxiv.org/abs/1803.10704",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "norms are over groups of channels, not over the batch: no row changes another",
            "the shared network is a feature pyramid, whose way up takes the place of a decoder",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, reduction=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with masks at the stages of its pyramids."""
        made, rows = encoder(), RowTasks()
        wrap_nets(made, partial(_Masked, tasks=tasks, rows=rows, reduction=self.reduction))
        return Pictures(made, tasks, rows)


class _Masked(Once):
    def __init__(
        self, stem: Maps, number: int, tasks: TaskSet, rows: RowTasks, reduction: int
    ) -> None:
        super().__init__(stem.nets[number], rows)
        sites = [ModuleSite(self.net, path) for path in stem.stages(number)]
        if not sites:
            raise ValueError(f"{stem.name} has no stages to mask; take encoder: {{image: pyramid}}")
        sizes = [_channels(site) for site in sites]
        after: Sequence[int | None] = [*(inside for inside, _ in sizes[1:]), None]
        before = 0
        for site, (inside, outside), following in zip(sites, sizes, after, strict=True):
            middle = max(outside // reduction, 1)
            mask = _mask(tasks, inside + before, middle, outside)
            share = None if following is None else layer(outside, following)
            site.replace(partial(_Stage, mask=mask, share=share, rows=rows))
            before = following or 0

    def look(self, maps: list[Tensor], looks: Looks) -> list[Tensor]:
        return looks.found[: -len(maps) - 1 : -1]


class _Stage(nn.Module):
    def __init__(
        self, block: nn.Module, mask: TaskBank, share: nn.Module | None, rows: RowTasks
    ) -> None:
        super().__init__()
        self.block, self.mask, self.share, self.rows = block, mask, share, rows

    def forward(self, before: Tensor) -> Tensor:
        """The shared maps go on; what the tasks make of them is left in the looks."""
        after: Tensor = self.block(before)
        looks: Looks = self.rows.made
        assert looks.which is not None
        seen = before.index_select(0, looks.which)
        if looks.last is not None:
            seen = torch.cat([seen, fitted(looks.last, seen.shape[2:])], 1)
        masked = self._mask(seen) * after.index_select(0, looks.which)
        looks.found.append(masked)
        looks.last = None if self.share is None else self.share(masked)
        return after

    def _mask(self, seen: Tensor) -> Tensor:
        for number in (1, 2):
            own = [
                self.mask.stack(f"{name}{number}").index_select(0, self.rows.task)
                for name in ("weight", "bias", "scale", "shift")
            ]
            seen = normalised(pointwise(seen, *own[:2]), *own[2:])
            seen = seen.relu() if number == 1 else seen.sigmoid()
        return seen


def _channels(site: ModuleSite) -> tuple[int, int]:
    """How many channels go into a stage's last block, and come out."""
    convolution = next(m for m in site.module.modules() if isinstance(m, nn.Conv2d))
    return convolution.in_channels, convolution.out_channels


def _mask(tasks: TaskSet, inside: int, middle: int, outside: int) -> TaskBank:
    bank = TaskBank(tasks.names)
    for number, (d, channels) in enumerate(((inside, middle), (middle, outside)), start=1):
        bank.add(f"weight{number}", channels, d, start=uniform(d))
        bank.add(f"bias{number}", channels, start=uniform(d))
        bank.add(f"scale{number}", channels, start=ones)
        bank.add(f"shift{number}", channels)
    return bank
