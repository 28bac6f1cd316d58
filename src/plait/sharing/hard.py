r"""One trunk that all tasks share, and a head for each.

h = encoder(x) [B, d]; the features of a record (task, row) are h[row], whatever the task. Nothing
but the heads tells the tasks apart, so sharing is as strong as it can be.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="price", kind="real")])
    >>> inputs = {"numeric": Input(key="numeric", type="numeric", shape=(5,))}
    >>> encoder = {"trunk": {"mlp": {"width": 8, "depth": 1}}}
    >>> network = build_network(
    ...     inputs=inputs, tasks=tasks, encoder=encoder, sharing=Hard(), seed=0
    ... )
    >>> sum(p.numel() for p in network.shared_parameters()) == (5 + 1) * 8
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from plait.batch import Parts, Records
from plait.method import Card, Law, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, Trunk
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Hard(Sharing):
    """Hard parameter sharing: one encoder for all tasks."""

    card = Card(
        family="sharing",
        name="hard",
        summary="One encoder for all tasks, one head for each.",
        paper=Paper(
            title="Multitask Learning",
            authors="Rich Caruana",
            year=1997,
            venue="Machine Learning 28",
            url="https://doi.org/10.1023/A:1007379606734",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
    )

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder alone."""
        return _Hard(encoder(), tasks)


class _Hard(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet) -> None:
        super().__init__(tasks, encoder.width)
        self.encoder = encoder

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        h = self.encoder(parts)
        return {group: Features(h, records.rows) for group, records in asked.items()}, {}
