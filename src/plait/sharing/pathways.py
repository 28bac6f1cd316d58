"""Feed-forward parts of transformer blocks in several experts, of which every token takes a few.

The inner and the outer linear map of such a part become stacks of E (:class:`Inner`,
:class:`Outer`). What stands between, an activation that works on each number alone, is left where
it is: it sees the tokens' chosen experts one after another. Only chosen experts run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.data.seeding import key
from plait.networks.base import Bank, Encoder, Start, TaskBank, uniform
from plait.networks.positions import real
from plait.networks.routing import followed
from plait.networks.rows import RowTasks
from plait.sharing.base import Mixture
from plait.sharing.inside import Inside, trained
from plait.sites import ModuleSite, has_role, module_sites, role_sites
from plait.task import TaskSet

TINY = 1e-10


@dataclass(frozen=True)
class FeedForward:
    """Where a feed-forward part begins (twice where a gate is beside) and ends."""

    inner: tuple[ModuleSite, ...]
    outer: ModuleSite

    @property
    def width(self) -> int:
        """The width of what goes in and comes out."""
        return _linear(self.outer).out_features


def feed_forwards(encoder: Encoder, named: Sequence[str] = ()) -> list[FeedForward]:
    """The feed-forward parts of an encoder, or those in the modules that glob patterns name.

    They are told by the roles of their linear maps (see ``plait.sites``); a named module without
    these is one part, from its first linear map to its last. Raises ``ValueError`` where there is
    none, and where it is frozen.
    """
    found = _by_roles(role_sites(encoder, "inner", "outer"))
    if named:
        every, found = found, []
        for site in module_sites(encoder, named):
            mine = [part for part in every if part.outer.path.startswith(f"{site.path}.")]
            found += mine or [_whole(encoder, site)]
    if not found:
        raise ValueError(
            "the encoder has no feed-forward part for experts to stand in; take encoder: "
            "{sequence: attention}, {text: {transformer: …}} or {image: vit}, or name sites"
        )
    trained(encoder, [part.outer for part in found])
    return found


def _by_roles(sites: Sequence[ModuleSite]) -> list[FeedForward]:
    found: list[FeedForward] = []
    inner: list[ModuleSite] = []
    for site in sites:
        if has_role(site.path, "inner"):
            inner.append(site)
        elif inner:
            found.append(FeedForward(tuple(inner), site))
            inner = []
    return found


def _whole(encoder: Encoder, site: ModuleSite) -> FeedForward:
    every = module_sites(encoder, types=(nn.Linear,))
    linear = [found for found in every if found.path.startswith(f"{site.path}.")]
    if len(linear) < 2:
        raise ValueError(f"{site.path} has fewer than two linear maps, and is no feed-forward part")
    return FeedForward((linear[0],), linear[-1])


def _linear(site: ModuleSite) -> nn.Linear:
    if not isinstance(site.module, nn.Linear):
        raise ValueError(f"{site.path} is no linear map, but {type(site.module).__name__}")
    return site.module


@dataclass
class Load:
    """How the tasks of a forward use the experts of one part, each [T, E] summed over tokens.

    ``gates`` are the weights given, ``taken`` how often an expert is (likely to be) taken, ``odds``
    the softmax of all logits.
    """

    gates: Tensor
    taken: Tensor
    odds: Tensor

    def __add__(self, other: Load) -> Load:
        gates, taken = self.gates + other.gates, self.taken + other.taken
        return Load(gates, taken, self.odds + other.odds)


@dataclass(frozen=True)
class Choice:
    """Which experts tokens take: pairs of token and expert [m], sorted by expert.

    ``order`` [m] the pairs in their order, ``expert`` [m] whose they are, ``counts`` how many each
    expert has (None in a graph); ``gates`` [n, K] what the outputs count.
    """

    gates: Tensor
    order: Tensor
    expert: Tensor
    counts: tuple[int, ...] | None


@dataclass
class Ways:
    """What a forward leaves for the modules inside: the tasks' vectors, choices and loads."""

    vectors: Tensor | None = None
    base: int = 0
    calls: int = 0
    choices: dict[int, Choice] = field(default_factory=dict)
    loads: dict[int, Load] = field(default_factory=dict)


class Paths(Inside):
    """An encoder whose feed-forward parts are mixtures of experts.

    ``vectors(tasks [t])`` gives what gates read of tasks, [t, size]; ``balance`` a penalty of the
    loads, in training.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: TaskSet,
        rows: RowTasks,
        balance: Callable[[Load], Tensor],
        vectors: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, tasks, rows)
        self.balance, self.vectors = balance, vectors

    def begin(self, task: Tensor) -> Ways:
        """The vectors of the tasks that are there, and a base for what is drawn."""
        ways = Ways(base=int(torch.randint(2**62, ()).item()) if self.training else 0)
        if self.vectors is not None:
            every = torch.arange(len(self.tasks), device=task.device)
            there = every if followed() else torch.unique(task)
            own: Tensor = self.vectors(there)
            room = own.new_zeros(len(self.tasks), own.shape[1])
            ways.vectors = room.index_copy(0, there, own)
        return ways

    def finish(self, made: Ways) -> dict[str, Tensor]:
        """The balance of all parts' loads, summed."""
        found = [self.balance(load) for load in made.loads.values()]
        return {"balance": torch.stack(found).sum()} if found else {}


class TaskVectors(nn.Module):
    """A learnt vector for each task, as gates read it."""

    def __init__(self, tasks: TaskSet, size: int) -> None:
        super().__init__()
        self.bank = TaskBank(tasks.names)
        self.bank.add("vector", size, start=uniform(size))

    def forward(self, tasks: Tensor) -> Tensor:
        """Positions [t] → [t, size]."""
        return self.bank.stack("vector")[tasks]


class TokenGate(Mixture):
    """Gates [n, E] of tokens, by maps of each task's own or by one for all, which may read vectors.

    Of the noisy logits the ``top`` greatest are taken. With ``rule`` all, their gates are the
    softmax over all experts, which then does not sum to 1; with chosen, that over those taken. The
    noise has a standard deviation of ``noise``/E, or one that is learnt. ``shared``: one map for
    all tasks, which also reads the tasks' vectors of size ``vectors``.
    """

    def __init__(
        self,
        tasks: TaskSet,
        experts: int,
        width: int,
        rows: RowTasks,
        number: int,
        *,
        top: int,
        rule: Literal["all", "chosen"],
        noise: float | Literal["learnt"] = 0.0,
        shared: bool = False,
        vectors: int = 0,
        start: Start | None = None,
    ) -> None:
        every = [range(experts)] * len(tasks)
        super().__init__(tasks.names, every, [None] * experts)
        self.rows, self.number, self.top, self.rule, self.noise = rows, number, top, rule, noise
        self.bank: Bank = Bank([None]) if shared else TaskBank(tasks.names)
        for name in ("weight", "spread") if noise == "learnt" else ("weight",):
            self.bank.add(name, experts, width + vectors, start=start or uniform(experts))

    def forward(self, x: Tensor, task: Tensor) -> Tensor:  # noqa: ARG002
        """Gates [n, E] of tokens [n, d]; whose they are stands in ``rows``, too."""
        clean = self._map(x, "weight")
        logits, spread = clean, None
        if self.training and self.noise != 0:
            if self.noise == "learnt":
                spread = F.softplus(self._map(x, "spread")) + 0.01
            else:
                spread = torch.full_like(clean, float(self.noise) / self.experts)
            logits = clean + spread * self._drawn(clean)
        order = logits.sort(dim=1, descending=True, stable=True)
        taken = torch.zeros_like(logits).scatter(1, order.indices[:, : self.top], 1.0)
        if self.rule == "all":
            gates = logits.softmax(1) * taken
        else:
            gates = logits.masked_fill(taken == 0, -torch.inf).softmax(1)
        if self.training:
            if self.noise == "learnt" and self.top < self.experts:
                assert spread is not None
                taken = chance_of_top(clean, order.values, taken, spread, self.top)
            self._note(gates, taken, clean.softmax(1))
        return gates

    def there(self) -> Tensor | None:
        """Which of what it is given is no padding."""
        return real()

    def _map(self, x: Tensor, name: str) -> Tensor:
        task, weight = self.rows.task, self.bank.stack(name)
        tokens = x.view(len(task), -1, x.shape[1])
        if isinstance(self.bank, TaskBank):
            return torch.bmm(tokens, weight[task].transpose(1, 2)).flatten(0, 1)
        of_token, of_task = weight[0].tensor_split([x.shape[1]], 1)
        found = F.linear(tokens, of_token)
        if of_task.shape[1]:
            found = found + F.linear(self.rows.made.vectors, of_task)[task, None]
        return found.flatten(0, 1)

    def _drawn(self, like: Tensor) -> Tensor:
        """Normal noise, for each task keyed by its name."""
        task, ways = self.rows.task, self.rows.made
        found = like.new_zeros(len(task), like.shape[0] // len(task), like.shape[1])
        ways.calls += 1
        for t in torch.unique(task).tolist():
            draw = torch.Generator().manual_seed(
                key(ways.base, self.number, ways.calls, self.readers[t])
            )
            mine = torch.nonzero(task == t)[:, 0]
            found[mine] = torch.randn(len(mine), *found.shape[1:], generator=draw).to(found)
        return found.flatten(0, 1)

    def _note(self, gates: Tensor, taken: Tensor, odds: Tensor) -> None:
        ways, there = self.rows.made, self.there()
        if there is not None:
            mask = there.flatten().unsqueeze(1)
            gates, taken, odds = gates * mask, taken * mask, odds * mask
        task = self.rows.task.repeat_interleave(len(gates) // len(self.rows.task))
        room = gates.new_zeros(len(self.readers), self.experts)
        load = Load(*(room.index_add(0, task, each) for each in (gates, taken, odds)))
        before = ways.loads.get(self.number)
        ways.loads[self.number] = load if before is None else before + load


def chance_of_top(
    clean: Tensor, ordered: Tensor, taken: Tensor, spread: Tensor, top: int
) -> Tensor:
    """How likely an expert is among the ``top`` if its own noise is drawn anew: [n, E].

    ``ordered`` [n, E] are the noisy logits, the greatest first (Shazeer et al. 2017, appendix A).
    """
    least = torch.where(taken > 0, ordered[:, top, None], ordered[:, top - 1, None])
    chance: Tensor = torch.special.ndtr((clean - least) / spread)
    return chance


def uneven(sums: Tensor) -> Tensor:
    """The squared coefficient of variation over the last dimension, 0 where it is 1 long."""
    if sums.shape[-1] == 1:
        return sums.new_zeros(sums.shape[:-1])
    return sums.var(-1) / (sums.mean(-1).square() + TINY)


class Stack(nn.Module):
    """E linear maps [E, out, in] with biases; pairs sorted by expert go through those they name."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def copies(cls, linear: nn.Linear, experts: int) -> Stack:
        """E times the same map."""
        weight = linear.weight.detach().repeat(experts, 1, 1)
        return cls(weight, None if linear.bias is None else linear.bias.detach().repeat(experts, 1))

    @classmethod
    def fresh(cls, experts: int, inside: int, outside: int) -> Stack:
        """Maps that start at random, each as ``nn.Linear`` does."""
        bound = inside**-0.5
        weight = torch.empty(experts, outside, inside).uniform_(-bound, bound)
        return cls(weight, torch.empty(experts, outside).uniform_(-bound, bound))

    def forward(self, pairs: Tensor, choice: Choice) -> Tensor:
        """[m, in] → [m, out]."""
        if choice.counts is None:  # one product for all experts: its size is known beforehand
            found = torch.einsum("mi,eoi->meo", pairs, self.weight)
            found = found if self.bias is None else found + self.bias
            return found[torch.arange(pairs.shape[0], device=pairs.device), choice.expert]
        return torch.cat(
            [
                F.linear(piece, self.weight[e], None if self.bias is None else self.bias[e])
                for e, piece in enumerate(torch.split(pairs, list(choice.counts)))
                if len(piece)
            ]
        )


class Inner(nn.Module):
    """The first map of a feed-forward part: the tokens' experts one after another, [..., K·h].

    The first of a part has the gate and chooses; another beside it follows.
    """

    def __init__(
        self, stack: Stack, rows: RowTasks, number: int, top: int, gate: TokenGate | None
    ) -> None:
        super().__init__()
        self.stack, self.rows, self.number, self.top, self.gate = stack, rows, number, top, gate

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] → [..., K·h]."""
        flat, ways = x.reshape(-1, x.shape[-1]), self.rows.made
        if self.gate is not None:
            task = self.rows.task.repeat_interleave(len(flat) // len(self.rows.task))
            ways.choices[self.number] = _choice(self.gate(flat, task), self.top)
        choice = ways.choices[self.number]
        pairs = flat.index_select(0, choice.order // self.top)
        hidden: Tensor = self.stack(pairs, choice)
        return hidden.view(*x.shape[:-1], -1)


class Outer(nn.Module):
    """The last map of a feed-forward part: the experts' outputs, weighed by the gates."""

    def __init__(self, stack: Stack, rows: RowTasks, number: int) -> None:
        super().__init__()
        self.stack, self.rows, self.number = stack, rows, number

    def forward(self, x: Tensor) -> Tensor:
        """[..., K·h] → [..., d]."""
        choice = self.rows.made.choices[self.number]
        outputs = self.stack(x.reshape(choice.order.shape[0], -1), choice)
        back = torch.empty_like(choice.order)
        back[choice.order] = torch.arange(back.shape[0], device=back.device)
        each = outputs.index_select(0, back).view(*choice.gates.shape, -1)
        return torch.bmm(choice.gates.unsqueeze(1), each).view(*x.shape[:-1], -1)


def _choice(gates: Tensor, top: int) -> Choice:
    values, chosen = gates.topk(top, 1)
    flat = chosen.flatten()
    if followed():
        return Choice(values, torch.arange(flat.shape[0], device=flat.device), flat, None)
    expert, order = torch.sort(flat, stable=True)
    counts = torch.bincount(expert, minlength=gates.shape[1]).tolist()
    return Choice(values, order, expert, tuple(counts))


def replace_parts(
    parts: Sequence[FeedForward],
    rows: RowTasks,
    top: int,
    gate: Callable[[int, int], TokenGate],
    stack: Callable[[nn.Linear, bool], Stack],
) -> None:
    """Put experts in the place of feed-forward parts.

    ``gate(number, width)`` makes a part's gate, ``stack(linear, inner)`` the experts for a map.
    """
    for number, part in enumerate(parts):
        own: TokenGate | None = gate(number, part.width)
        for site in part.inner:
            made = Inner(stack(_linear(site), True), rows, number, top, own)
            site.replace(lambda _, made=made: made)  # type: ignore[misc]
            own = None
        last = Outer(stack(_linear(part.outer), False), rows, number)
        part.outer.replace(lambda _, last=last: last)  # type: ignore[misc]
