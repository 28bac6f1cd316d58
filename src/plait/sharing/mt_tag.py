r"""Feed-forward parts in several copies, of which a token takes few by a gate that knows the task.

For a token x [d] of a row of task t, with E copies of the block's feed-forward part:

    s = W_t x [E],    g = softmax over the K greatest of s,    y = Σ_e g_e part_e(x)

W_t [E, d], no bias; ``gate`` shared has one W [E, d + size] for all tasks, on [x; v_t] with a
learnt vector v_t [size]. Only the K chosen copies run for a token. In training a penalty keeps them
in use over the whole batch, whatever the tasks, so that each may specialise:

    balance · E · Σ_e f_e P_e

f_e: the share of choices that are copy e, P_e: the mean over tokens of softmax(s)_e; it is
``balance`` where both are even. Parameters: each part E times, and T·E·d for each part, or E·(d +
size) for each part and T·size.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tasks = TaskSet([Task(name="mood"), Task(name="topic")])
    >>> items = Input(key="sequence.s", type="sequence", shape=(-1,), sizes=(9,))
    >>> network = build_network(
    ...     inputs={"sequence.s": items}, tasks=tasks,
    ...     encoder={"sequence": {"attention": {"width": 8, "heads": 2}}},
    ...     sharing=MtTag(experts=3, top=2), seed=0,
    ... )
    >>> part = network.encoder.stems["sequence"].layers[0][0].mlp
    >>> sum(p.numel() for p in part.parameters()) == 3 * (9 * 32 + 33 * 8) + 2 * 3 * 8 + 2 * 8
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from plait.kinds import Place
from plait.method import Card, Law, Paper
from plait.networks.base import MakeEncoder, Sharing, Trunk
from plait.networks.rows import RowTasks
from plait.sharing.base import at_least
from plait.sharing.pathways import (
    TINY,
    Load,
    Paths,
    Stack,
    TaskVectors,
    TokenGate,
    feed_forwards,
    replace_parts,
)
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class MtTag(Sharing):
    """Task-aware gating; ``sites`` names modules whose feed-forward parts are meant, else all."""

    experts: int = 4
    top: int = 2
    gate: Literal["own", "shared"] = "own"
    size: int = 64
    noise: float = 0.0
    balance: float = 0.01
    sites: Sequence[str] = ()
    place: ClassVar[Place] = "token"

    card = Card(
        family="sharing",
        name="mt_tag",
        summary="Copies of feed-forward parts, each token's few chosen by a gate of its task.",
        paper=Paper(
            title="Sparsely Activated Mixture-of-Experts are Robust Multi-Task Learners",
            authors="Shashank Gupta and Subhabrata Mukherjee and Krishan Subudhi and Eduardo "
            "Gonzalez and Damien Jose and Ahmed H. Awadallah and Jianfeng Gao",
            year=2022,
            venue="arXiv",
            url="https://arxiv.org/abs/2204.07689",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT}),
        deviations=(
            "no code was published: which of the two gates is the paper's could not be confirmed",
            "the balance is that of Switch transformers, of a batch or micro-batch, not of a task",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, experts=2, top=2, size=1, noise=0, balance=0)  # one gate of 1 learns nothing
        if self.top > self.experts:
            raise ValueError(f"top is {self.top} of {self.experts} experts")
        if self.gate not in ("own", "shared"):
            raise ValueError(f"gate must be own or shared, got {self.gate!r}")

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder with copies of its feed-forward parts."""
        made, rows = encoder(), RowTasks()
        shared = self.gate == "shared"

        def gate(number: int, width: int) -> TokenGate:
            return TokenGate(
                tasks, self.experts, width, rows, number,
                top=self.top, rule="chosen", noise=self.noise,
                shared=shared, vectors=self.size if shared else 0,
            )  # fmt: skip

        replace_parts(feed_forwards(made, self.sites), rows, self.top, gate, self._stack)
        vectors = TaskVectors(tasks, self.size) if shared else None
        return Paths(made, tasks, rows, partial(_balance, strength=self.balance), vectors)

    def _stack(self, linear: nn.Linear, inner: bool) -> Stack:  # noqa: ARG002
        return Stack.copies(linear, self.experts)


def _balance(load: Load, strength: float) -> Tensor:
    taken, odds = load.taken.sum(0), load.odds.sum(0)
    even = (taken * odds).sum() / (taken.sum() * odds.sum()).clamp(min=TINY)
    return strength * len(taken) * even
