r"""Tasks one above the other, each with a recurrent encoder that reads what the one below found.

For the tokens e [L, d] of a row, task t and the task below it, if any:

    h_t = BiLSTM_t([e; h_below(t)])  or  BiLSTM_t(e)                        [L, 2·hidden]

Tasks that label tokens read h_t, others its mean over the tokens that are there. Only e and the
output of the one encoder below go in. A loss trains the encoders from its task's down and none
above. ``under`` says which task each stands on; without it tasks stand on those they come after.
Parameters beside the encoder: for each task and direction 4·hidden·(i + hidden + 2), with i = d, or
d + 2·hidden above another, in the first layer and 2·hidden in the others.

    >>> from plait import Task, TaskSet
    >>> from plait.batch import Input
    >>> from plait.networks import build_network
    >>> tags = [Task(name=n, kind="tokens", classes=("x", "y")) for n in ("ner", "mention")]
    >>> items = Input(key="sequence.s", type="sequence", shape=(-1,), sizes=(9,))
    >>> network = build_network(
    ...     inputs={"sequence.s": items}, tasks=TaskSet(tags),
    ...     encoder={
    ...         "sequence": {"attention": {"width": 8, "heads": 2}}, "trunk": {"mlp": {"depth": 0}},
    ...     },
    ...     sharing=Hmtl(hidden=3, depth=1, under={"mention": "ner"}), seed=0,
    ... )
    >>> own = {t: sum(p.numel() for p in m.parameters()) for t, m in network.trunk.layers.items()}
    >>> own == {"ner": 2 * 12 * (8 + 3 + 2), "mention": 2 * 12 * (8 + 6 + 3 + 2)}
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.kinds import Place
from plait.method import Card, Law, Need, Paper
from plait.networks.base import Encoder, Features, MakeEncoder, Sharing, Trunk, escape, seeded
from plait.networks.positions import at, place
from plait.networks.stems import Stem
from plait.sharing.base import at_least, own_rows, present
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Hmtl(Sharing):
    """Hierarchical multi-task learning; ``under``: a task's name → the task it stands on."""

    hidden: int = 32
    depth: int = 1
    under: Mapping[str, str] | None = None
    place: ClassVar[Place] = "token"
    names_tasks: ClassVar[Mapping[str, str]] = {"under": "both"}

    card = Card(
        family="sharing",
        name="hmtl",
        summary="Tasks one above the other, each encoder reading what the one below found.",
        paper=Paper(
            title="A Hierarchical Multi-task Approach for Learning Embeddings from Semantic Tasks",
            authors="Victor Sanh and Thomas Wolf and Sebastian Ruder",
            year=2019,
            venue="AAAI",
            url="https://arxiv.org/abs/1811.06031",
        ),
        needs=frozenset({Need.ORDERED}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "the encoders read any encoder of tokens in place of GloVe, characters and ELMo",
            "one layer of 32 units a way unless told otherwise, where the paper has two of 64",
            "no dropout between layers, and one state of the optimizer",
            "all tasks are in one update; the paper draws one task for each",
            "heads are one linear map a token, not a conditional random field",
        ),
    )

    def __post_init__(self) -> None:
        at_least(self, hidden=1, depth=1)

    def build(self, encoder: MakeEncoder, tasks: TaskSet) -> Trunk:
        """The encoder, and one for each task on it and on one another."""
        below = self._below(tasks)
        made = encoder()
        if not any(isinstance(m, Stem) and m.place == "token" for m in made.modules()):
            raise ValueError("the encoder gives no tokens; take encoder: {sequence: attention}")
        return _Hmtl(made, tasks, self, below)

    def _below(self, tasks: TaskSet) -> dict[str, str]:
        """Task → the task it stands on, lower ones first; ``ValueError`` for a ring or no order."""
        own = {tasks[name].name: tasks[low].name for name, low in (self.under or {}).items()}
        if not own:
            own = {task.name: task.after for task in tasks if task.after in tasks.position}
        if len(tasks) > 1 and not own:
            one, two = tasks.names[:2]
            raise ValueError(f"no task stands on another; say which: under: {{{two}: {one}}}")
        found: dict[str, str] = {}
        left = list(tasks.names)
        while left:
            ready = [name for name in left if own.get(name) not in left]
            if not ready:
                raise ValueError(f"under goes around in a ring: {', '.join(left)}")
            found |= {name: own.get(name, "") for name in ready}
            left = [name for name in left if name not in ready]
        return found


class _Hmtl(Trunk):
    def __init__(
        self, encoder: Encoder, tasks: TaskSet, settings: Hmtl, below: Mapping[str, str]
    ) -> None:
        super().__init__(tasks, 2 * settings.hidden)
        self.encoder, self.below = encoder, dict(below)
        base, self.layers = int(torch.randint(2**62, ()).item()), nn.ModuleDict()
        for name, low in self.below.items():
            inside = encoder.width + (self.width if low else 0)
            with seeded(base, name):
                self.layers[escape(name)] = _BiLstm(inside, settings.hidden, settings.depth)

    def reach(self) -> dict[str, frozenset[str]]:
        """Every task's loss trains its own encoder and those beneath it."""
        found = super().reach()
        for name in self.below:
            above = frozenset(task for task in self.below if name in self._down(task))
            start = f"layers.{escape(name)}."
            found |= {path: above for path in found if path.startswith(start)}
        return found

    def _down(self, task: str) -> list[str]:
        """The task and those beneath it."""
        found = [task]
        while self.below[found[-1]]:
            found.append(self.below[found[-1]])
        return found

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        task = {group: self.positions(group, records) for group, records in asked.items()}
        kept = present(list(task.values()), len(self.tasks))
        with at("token"):
            tokens = self.encoder(parts)
        there = self.encoder.grid(parts, "token")
        tokens = tokens.view(*there.shape, -1)
        names = self.tasks.names if kept is None else [self.tasks.names[t] for t in kept]
        needed = {low for name in names for low in self._down(name)}
        states: dict[str, Tensor] = {}
        for name, low in self.below.items():
            if name in needed:
                x = torch.cat([tokens, states[low]], 2) if low else tokens
                states[name] = self.layers[escape(name)](x, there)
        found = torch.stack([states[name] for name in names])
        if place() == "row":
            share = there.to(found.dtype)
            share = share / share.sum(1, keepdim=True).clamp(min=1)
            found = torch.einsum("bl,tbld->tbd", share, found)
        else:
            found = found.flatten(1, 2)
        return {g: own_rows(found, kept, asked[g], task[g]) for g in asked}, {}


class _BiLstm(nn.Module):
    def __init__(self, inside: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            ways = [nn.LSTM(inside, hidden, batch_first=True) for _ in range(2)]
            self.layers.append(nn.ModuleList(ways))
            inside = 2 * hidden

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """[B, L, d] → [B, L, 2·hidden], 0 in the padding, which changes nothing."""
        step = torch.arange(there.shape[1], device=there.device)
        last = (there * step).amax(1, keepdim=True)
        turned = torch.where(step <= last, last - step, step).unsqueeze(2)
        for ways in self.layers:
            forth, back = cast("nn.ModuleList", ways)
            ahead = forth(x)[0]
            behind = back(x.gather(1, turned.expand_as(x)))[0]
            x = torch.cat([ahead, behind.gather(1, turned.expand_as(behind))], 2)
        return x * there.unsqueeze(2)
