"""A bench of torch modules and tensors: for merging any network by methods that look at data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from plait.batch import Labels
from plait.losses import LOSSES
from plait.merging.bench import Bench, Seen, array
from plait.merging.pool import Array
from plait.method import Need


class ModuleBench(Bench):
    """A module that makes features [N, width] of rows, and a module for each task's head.

    ``inputs`` are the tasks' rows, each a tensor that the module takes, or several by the names of
    its arguments; ``labels`` their targets where they are known, as :class:`~plait.batch.Labels`
    has them; ``losses`` the name of a loss, or one for each task. Raises ``ValueError`` naming the
    task whose rows, head or loss is missing.
    """

    def __init__(
        self,
        module: nn.Module,
        heads: Mapping[str, nn.Module],
        inputs: Mapping[str, Tensor | Mapping[str, Tensor]],
        labels: Mapping[str, Tensor] | None = None,
        *,
        losses: str | Mapping[str, str] = "cross_entropy",
        cache: Path | None = None,
    ) -> None:
        named = dict.fromkeys(inputs, losses) if isinstance(losses, str) else dict(losses)
        offers = {Need.UNLABELLED, Need.HEADS, Need.FEATURES, Need.BACKWARD, Need.ROUTER_DATA}
        for what, given in (("head", heads), ("loss", named), ("labels", labels or inputs)):
            strange = sorted(set(given) ^ set(inputs))
            if strange:
                raise ValueError(f"a task has no {what}, or no rows: {', '.join(strange)}")
        for task, loss in named.items():
            if loss not in LOSSES:
                raise ValueError(f"task {task!r}: no loss {loss!r}; valid: {', '.join(LOSSES)}")
        self._heads = {task: heads[task].eval() for task in inputs}
        self._inputs = {
            task: {"": rows} if isinstance(rows, Tensor) else dict(rows)
            for task, rows in inputs.items()
        }
        self._labels = labels
        super().__init__(
            module,
            {task: named[task] for task in inputs},
            offers=offers if labels is None else {*offers, Need.LABELLED},
            fingerprint=self._told(),
            cache=cache,
        )

    def count(self, task: str) -> int:
        return len(next(iter(self._inputs[task].values())))

    def _head(self, task: str) -> tuple[Tensor, Tensor] | None:
        head = self._heads[task]
        if not isinstance(head, nn.Linear) or head.bias is None:
            return None
        return head.weight.detach(), head.bias.detach()

    def _run(self, task: str, rows: Array) -> Seen:
        where = torch.from_numpy(rows)
        given = {name: tensor[where] for name, tensor in self._inputs[task].items()}
        features = self.module(given[""]) if "" in given else self.module(**given)
        return Seen(features, self._heads[task](features))

    def _loss(self, task: str, rows: Array, seen: Seen) -> Tensor:
        assert self._labels is not None, "a bench without labels offers none"
        target = self._labels[task][torch.from_numpy(rows)]
        nothing = torch.zeros(len(rows), dtype=torch.long)
        return LOSSES[self.losses[task]].per_record(seen.raw, Labels(nothing, nothing, target))

    def _told(self) -> str:
        """A hash of all rows and heads."""
        found = hashlib.blake2b(digest_size=16)
        for task, head in self._heads.items():
            tensors = {**self._inputs[task], **head.state_dict()}
            for name, tensor in tensors.items():
                found.update(f"{task} {name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                found.update(array(tensor).tobytes())
        return found.hexdigest()
