r"""Chained probabilities on one encoder: a purchase is a click, and then a purchase.

A task that comes ``after`` others has a head for the step alone, and the product as its output:

    p_t = Π_{i of t and those before it} σ(c_i),    c_i = w_i · h_i + b_i,    h_i = tower_i(x)

with x = encoder(inputs) [B, d] and tower_i left out (h_i = x) or ``depth`` layers d → width with
ReLU. The loss is the binary cross-entropy of p_t on all rows with a label; no loss is on σ(c_t)
alone, so that it is learnt without the bias of looking only where the step before happened. The
log-odds of a product are formed as −log(e^−l + e^−c + e^−(l+c)), which neither probability has to
leave. Tasks of no chain are as with hard sharing. Parameters beside the encoder, with T tasks:
T·((d+1)·width + (depth−1)·(width+1)·width), and the heads.

    >>> import torch
    >>> from plait import Records, Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="click"), Task(name="buy", after="click")])
    >>> inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(3,))}
    >>> network = build_network(inputs=inputs, tasks=tasks, encoder={}, sharing=Esmm(), seed=0)
    >>> asked = {"binary": Records(torch.tensor([0, 1]), torch.tensor([0, 0]))}
    >>> click, buy = network.predict({"table": {"vector.v": torch.ones(1, 3)}}, asked)["binary"]
    >>> bool(buy < click)
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from plait.batch import Parts, Records
from plait.method import Card, Law, Need, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, Trunk
from plait.networks.chains import Chain
from plait.networks.network import Network, evaluating
from plait.sharing.base import at_least, own_rows, present
from plait.sharing.towers import Towers, links_of
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Esmm(Sharing):
    """Entire-space modelling of chains; ``depth`` and ``width`` of a tower per task (0: none)."""

    width: int = 64
    depth: int = 1

    card = Card(
        family="sharing",
        name="esmm",
        summary="What comes after another task is learnt as a product, on all rows.",
        paper=Paper(
            title="Entire Space Multi-Task Model: An Effective Approach for Estimating "
            "Post-Click Conversion Rate",
            authors="Xiao Ma and Liqin Zhao and Guan Huang and Zhi Wang and Zelin Hu and "
            "Xiaoqiang Zhu and Kun Gai",
            year=2018,
            venue="SIGIR",
            url="https://doi.org/10.1145/3209978.3210104",
        ),
        needs=frozenset({Need.ORDERED}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "one logit for each step instead of a softmax over two, the same model",
            "a chained task's prediction is the product; conditional() gives that of its step",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=0)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder and the towers on it, and the product after the heads."""
        chain = Product(tasks, links_of(tasks))
        return _Esmm(encoder(), tasks, self, chain)


class _Esmm(Trunk):
    def __init__(self, encoder: Encoder, tasks: TaskSet, settings: Esmm, chain: Chain) -> None:
        super().__init__(tasks, settings.width if settings.depth else encoder.width)
        self.encoder, self.chain, self.towers = encoder, chain, None
        if settings.depth:
            size = (encoder.width, settings.width, settings.depth)
            self.towers = Towers(tasks, *size, chain.trainers)

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        x = self.encoder(parts)
        if self.towers is None:
            return {group: Features(x, records.rows) for group, records in asked.items()}, {}
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        states = self.towers(x, kept)
        return {g: own_rows(states, kept, asked[g], task[g]) for g in asked}, {}


@torch.no_grad()
def conditional(network: Network, parts: Parts, asked: Mapping[str, Records]) -> dict[str, Tensor]:
    """Probabilities [N] of the records' own steps, given that the tasks before them happened.

    By head group, for the binary tasks that are asked for.
    """
    with evaluating(network):
        raw = network.heads(network.trunk(parts, asked)[0], asked)
    kinds = {group: network.tasks.groups[group].kind for group in asked}
    return {g: raw[g].squeeze(1).sigmoid() for g, kind in kinds.items() if kind == "binary"}


class Product(Chain):
    """The log-odds of the product of all steps up to a task."""

    def outputs(self, steps: Tensor) -> Tensor:
        """[N, 1 + depth] → [N]."""
        found = steps[:, -1]
        for own in reversed(steps.unbind(1)[:-1]):
            found = -torch.stack([-found, -own, -found - own]).logsumexp(0)
        return found

    def priors(self, priors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The rate of a step is its task's among those of the task before."""
        found = dict(priors)
        for name, before in self.before.items():
            if name in priors and before and before[-1] in priors:
                step = (priors[name][-1] / priors[before[-1]][-1]).clamp(max=1 - 1e-6)
                found[name] = torch.stack([1 - step, step])
        return found
