r"""Heads that look at one backbone's feature maps, each task by masks of its own, at every scale.

Of the backbone's maps f_s [C, h_s, w_s] at scales s = 1…S, the finest first, task t makes

    a_ts = σ(M_ts f_s + m_ts) ⊙ (V_ts f_s + v_ts), as large as f_1                 [C, h, w]
    μ_t = softmax over scales of (K_t [a_t1; …; a_tS] + k_t)                       [S, h, w]

and its features are Σ_s μ_ts ⊙ a_ts; M, V [C, C] and K [S, S·C] are 1×1 convolutions of the task.
Tasks have nothing in common but the backbone, which runs once for an image, so that a task can be
added to a trained network without moving another's outputs (``plait.networks.extended``). A row's
vector is the mean of its features. Parameters beside the encoder: T·(2·S·(C² + C) + S²·C + S).

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="day"), Task(name="edge", kind="boundaries")])
    >>> image = {"pyramid": {"channels": 4, "depth": 2, "width": 8, "stride": 1}}
    >>> network = build_network(
    ...     inputs={"image.i": Input(key="image.i", type="image", shape=(1, 8, 8))}, tasks=tasks,
    ...     encoder={"image": image}, sharing=Medusa(), seed=0,
    ... )
    >>> looks = network.encoder.stems["image"].nets[0].own
    >>> sum(p.numel() for p in looks.parameters()) == 2 * (2 * 2 * (64 + 8) + 2 * 2 * 8 + 2)
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from plait.kinds import Place
from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, TaskBank, Trunk, uniform
from plait.networks.maps import Maps
from plait.networks.rows import RowTasks
from plait.sharing.pictures import Looks, Once, Pictures, fitted, pointwise, wrap_nets
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Medusa(Sharing):
    """Medusa: attention of each task's own on shared features, and over scales."""

    place: ClassVar[Place] = "pixel"

    card = Card(
        family="sharing",
        name="medusa",
        summary="Each task's masks on one backbone's maps, and over their scales.",
        paper=Paper(
            title="Medusa: Universal Feature Learning via Attentional Multitasking",
            authors="Jaime Spencer and Richard Bowden and Simon Hadfield",
            year=2022,
            venue="CVPR Workshops",
            url="https://arxiv.org/abs/2204.05698",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "no code was published: sizes of convolutions and the form of masks are assumed",
            "what follows the maps in an encoder is shared; one of depth 0 is the paper's",
        ),
    )

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with every task's looks at its maps."""
        made, rows = encoder(), RowTasks()
        wrap_nets(made, partial(_Heads, tasks=tasks, rows=rows))
        return Pictures(made, tasks, rows)


class _Heads(Once):
    def __init__(self, stem: Maps, number: int, tasks: TaskSet, rows: RowTasks) -> None:
        super().__init__(stem.nets[number], rows)
        with torch.no_grad():
            blank = self.net(torch.zeros(1, *stem.shapes[number]))
        self.scales, width = len(blank), blank[0].shape[1]
        self.own = TaskBank(tasks.names)
        for name in ("mask", "value"):
            self.own.add(f"{name}s", self.scales, width, width, start=uniform(width))
            self.own.add(f"{name}_biases", self.scales, width, start=uniform(width))
        inside = self.scales * width
        self.own.add("among", self.scales, inside, start=uniform(inside))
        self.own.add("among_bias", self.scales, start=uniform(inside))

    def look(self, maps: list[Tensor], looks: Looks) -> list[Tensor]:
        assert looks.which is not None
        own = {
            name: self.own.stack(name).index_select(0, self.rows.task) for name in self.own.starts
        }
        found = []
        for scale, level in enumerate(maps):
            seen = level.index_select(0, looks.which)
            mask = pointwise(seen, own["masks"][:, scale], own["mask_biases"][:, scale])
            value = pointwise(seen, own["values"][:, scale], own["value_biases"][:, scale])
            found.append(fitted(mask.sigmoid() * value, maps[0].shape[2:]))
        share = pointwise(torch.cat(found, 1), own["among"], own["among_bias"]).softmax(1)
        each = torch.stack(found, 1)  # [N, S, C, h, w]
        return [(share.unsqueeze(2) * each).sum(1)]
