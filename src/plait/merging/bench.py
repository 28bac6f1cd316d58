"""The bench: the network to be merged, with one head per task, run at any weights on any rows.

Its module holds one set of weights, the ones last put there; a merger puts the base's, an expert's
or its own in turn, so that memory holds one network however many models a pool has.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from plait.merging.engine import BLOCK
from plait.merging.pool import Array, Pool
from plait.method import Need
from plait.weights.sources import State


@dataclass(frozen=True)
class Seen:
    """What the network makes of some rows: features [N, width] and its head's numbers [N, outputs].

    The head's numbers are those before any link function. Of tasks that label positions inside a
    row, N counts the labelled positions; else the rows.
    """

    features: Tensor
    outputs: Tensor | None = None

    @property
    def raw(self) -> Tensor:
        """The head's numbers; ``LookupError`` for a method that asks for no heads."""
        if self.outputs is None:
            raise LookupError(f"a merger looked at {Need.HEADS.words}; its card asks for none")
        return self.outputs


class Bench(ABC):
    """A network of ``module``, the part that is merged, and a head for each of ``tasks``.

    The tensors of ``module`` go by the names that they have in the pool. ``losses`` are the names
    of the tasks' losses (:data:`plait.losses.LOSSES`). ``words`` says in a message which rows they
    are, ``fingerprint`` identifies rows and heads; with ``cache``, a folder, statistics are kept
    there. The network is in evaluation mode.

    A row goes by its number, from 0 to below :meth:`count` of its task.
    """

    def __init__(
        self,
        module: nn.Module,
        losses: Mapping[str, str],
        *,
        offers: Collection[Need],
        fingerprint: str = "",
        cache: Path | None = None,
        words: str = "training rows",
    ) -> None:
        self.module = module.eval()
        self.losses = dict(losses)
        self.offers = frozenset(offers)
        self.fingerprint = fingerprint
        self.cache = cache
        self.words = words

    # -- what a kind of network gives ------------------------------------------------------------

    @abstractmethod
    def count(self, task: str) -> int:
        """How many rows a task has."""

    @abstractmethod
    def _head(self, task: str) -> tuple[Tensor, Tensor] | None: ...

    @abstractmethod
    def _run(self, task: str, rows: Array) -> Seen: ...

    @abstractmethod
    def _loss(self, task: str, rows: Array, seen: Seen) -> Tensor: ...

    # -- what a merger asks for ------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, named as the models that were trained on them."""
        return tuple(self.losses)

    def granted(self, needs: frozenset[Need]) -> Self:
        """The same bench, on which only what these needs name may be looked at."""
        found = copy.copy(self)
        found.offers = self.offers & needs
        return found

    def run(self, task: str, rows: Array) -> Seen:
        """Features and a task's raw outputs of some of its rows, with graph."""
        self._ask(Need.UNLABELLED, Need.LABELLED, Need.ROUTER_DATA)
        seen = self._run(task, rows)
        return seen if Need.HEADS in self.offers else Seen(seen.features)

    def loss(self, task: str, rows: Array, seen: Seen) -> Tensor:
        """The task's own loss of each row that was run, from its labels. [N]"""
        self._ask(Need.LABELLED)
        return self._loss(task, rows, seen)

    def head(self, task: str) -> tuple[Tensor, Tensor]:
        """A task's linear head: weight [outputs, width] and bias [outputs].

        What is written into them changes the head. ``ValueError`` where it is not linear.
        """
        self._ask(Need.HEADS)
        found = self._head(task)
        if found is None:
            raise ValueError(f"the head of task {task!r} is not one linear layer with a bias")
        return found

    def drawn(self, task: str, size: int, step: int, seed: int) -> Array:
        """The rows of a step: the task's rows pass by in shuffled order, ``size`` at a time."""
        return dealt(seed, task, self.count(task), size, step)

    def chosen(self, task: str, most: int, seed: int) -> Array:
        """At most so many different rows of a task, ascending."""
        return np.sort(shuffled(seed, task, 0, self.count(task))[:most])

    def batches(self, task: str, most: int, size: int, seed: int) -> Iterator[Array]:
        """The rows of :meth:`chosen`, ``size`` at a time."""
        rows = self.chosen(task, most, seed)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def check(self, pool: Pool) -> None:
        """Raise ``ValueError`` where tasks and models, tensors or rows do not fit one another."""
        strange = sorted(set(self.tasks) ^ set(pool.names))
        if strange:
            raise ValueError(
                f"tasks and models differ in {', '.join(map(repr, strange))}; name every model as "
                "the task whose rows it was trained on"
            )
        empty = [task for task in self.tasks if not self.count(task)]
        if empty:
            raise ValueError(f"there are no {self.words} of {', '.join(map(repr, empty))}")
        own = self.weights
        for site in pool.sites:
            shape = tuple(own[site.name].shape) if site.name in own else None
            if shape is None or (shape or (1,)) != (site.shape or (1,)):  # files have no scalars
                there = "is not in it" if shape is None else f"is {list(shape)} in it"
                raise ValueError(
                    f"the network on the bench does not fit the models: {site.name!r} "
                    f"({site.words}) {there}"
                )

    # -- its weights -----------------------------------------------------------------------------

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The module's tensors by name, as they are now; writing into one changes the network."""
        return dict(self.module.state_dict(keep_vars=True))

    @property
    def state(self) -> State:
        """The weights as arrays; on the CPU they are the module's own memory."""
        return {name: array(tensor) for name, tensor in self.weights.items()}

    def load(self, pool: Pool, model: str | None) -> None:
        """Put the weights of a model of the pool into the module; None for the base."""
        one = None if model is None else pool.alone(model)
        own = self.weights
        for site in pool.sites:
            if not site.floating:
                continue
            for start in range(0, site.size, BLOCK):
                stop = min(start + BLOCK, site.size)
                values = np.empty(stop - start, site.working)
                if one is None:
                    pool.read_origin(site, start, stop, values)
                else:
                    values = one.block(site, start, stop, against_base=False)[0][0]
                put(own[site.name], start, values)

    def fill(self, state: State) -> None:
        """Put tensors by name into the module."""
        own = self.weights
        for name, value in state.items():
            put(own[name], 0, np.ascontiguousarray(value).reshape(-1))

    def backward(self, loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
        """Add a loss's gradient to that of the inputs, and to no other.

        The inputs are the module's trainable tensors where none are given.
        """
        self._ask(Need.BACKWARD)
        if inputs is None:
            inputs = [p for p in self.module.parameters() if p.requires_grad]
        torch.autograd.backward(loss, inputs=inputs)

    def gradients(self, value: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The gradient of a number with respect to each of the module's trainable tensors.

        The number's graph is kept, and nothing is added to what :meth:`backward` has gathered.
        """
        self._ask(Need.BACKWARD)
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(
            value, list(named.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                yield name, gradient

    def forget(self) -> None:
        """Drop the gradients."""
        for tensor in self.module.parameters():
            tensor.grad = None

    def digest(self) -> str:
        """A hash of the weights as they are now."""
        found = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.state.items()):
            found.update(f"{name} {value.dtype} {value.shape}".encode("utf-8", "surrogatepass"))
            found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return found.hexdigest()

    def _ask(self, *any_of: Need) -> None:
        if not self.offers.intersection(any_of):
            raise LookupError(
                f"a merger looked at {any_of[0].words}, which its card does not ask for"
            )


def dealt(seed: int, task: str, count: int, size: int, step: int) -> Array:
    """The numbers below ``count`` that a step sees; all pass by before any comes again."""
    places = np.arange(step * size, (step + 1) * size)
    numbers = dict.fromkeys((places // count).tolist())
    passes = {number: shuffled(seed, task, number, count) for number in numbers}
    return np.array([passes[place // count][place % count] for place in places.tolist()])


def shuffled(seed: int, task: str, number: int, count: int) -> Array:
    """The numbers below ``count`` in an order keyed by seed, task and the number of the pass."""
    return keyed(seed, number, task).permutation(count)


def keyed(*words: object) -> np.random.Generator:
    """Random numbers that follow from the words."""
    text = "\x00".join(map(str, words)).encode("utf-8", "surrogatepass")
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


@torch.no_grad()
def put(tensor: Tensor, start: int, values: Array) -> None:
    """Write values [n] into a tensor of a module from a flat place on."""
    flat = tensor.detach().view(-1)
    flat[start : start + len(values)] = torch.from_numpy(values).to(flat)


def array(tensor: Tensor) -> Array:
    """A tensor's values; on the CPU its own memory."""
    plain = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    found: Array = plain.cpu().numpy()
    return found
