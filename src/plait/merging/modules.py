"""A bench of torch modules and tensors: for merging any network by methods that look at data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from plait.batch import Labels
from plait.losses import LOSSES
from plait.merging.bench import Bench, Seen, array
from plait.merging.pool import Array, Pool
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

    def check(self, pool: Pool) -> None:
        """Raise ``ValueError`` where models, rows, heads and labels do not fit one another."""
        super().check(pool)
        for task in self.tasks:
            for name, rows in self._inputs[task].items():
                if len(rows) != self.count(task):
                    raise ValueError(
                        f"task {task!r}: its inputs have {self.count(task)} and, as {name!r}, "
                        f"{len(rows)} rows"
                    )
                if rows.is_floating_point() and not bool(rows.isfinite().all()):
                    bad = int((~rows.isfinite()).flatten(1).any(1).sum())
                    raise ValueError(
                        f"task {task!r}: {bad} of its {len(rows)} rows hold NaN or infinite "
                        "values; leave them out, or fill them in"
                    )
            self._try(task)

    @torch.no_grad()
    def _try(self, task: str) -> None:
        """Run one row, and look at the labels."""
        try:
            features = self._features(task, np.arange(1))
        except (RuntimeError, IndexError, TypeError) as error:
            shapes = ", ".join(str(list(rows.shape)) for rows in self._inputs[task].values())
            raise ValueError(
                f"task {task!r}: the network cannot run its rows ({shapes}): {error}; are they of "
                "another task?"
            ) from error
        try:
            raw = self._heads[task](features)
        except RuntimeError as error:
            raise ValueError(
                f"task {task!r}: its head does not take the features that the network makes of a "
                f"row ({list(features.shape[1:])}): {error}"
            ) from error
        if self._labels is None:
            return
        target = self._labels[task]
        if len(target) != self.count(task):
            raise ValueError(f"task {task!r} has {self.count(task)} rows and {len(target)} labels")
        if self.losses[task] == "cross_entropy":
            least, most = int(target.min()), int(target.max())
            if least < 0 or most >= raw.shape[-1]:
                raise ValueError(
                    f"task {task!r} has labels from {least} to {most}, and its head tells "
                    f"{raw.shape[-1]} classes, 0 to {raw.shape[-1] - 1}; is it another task's head?"
                )

    def count(self, task: str) -> int:
        return len(next(iter(self._inputs[task].values())))

    def _head(self, task: str) -> tuple[Tensor, Tensor] | None:
        head = self._heads[task]
        if not isinstance(head, nn.Linear) or head.bias is None:
            return None
        return head.weight.detach(), head.bias.detach()

    def _run(self, task: str, rows: Array) -> Seen:
        features = self._features(task, rows)
        return Seen(features, self._heads[task](features))

    def _features(self, task: str, rows: Array) -> Tensor:
        where = torch.from_numpy(rows)
        given = {name: tensor[where] for name, tensor in self._inputs[task].items()}
        found: Tensor = self.module(given[""]) if "" in given else self.module(**given)
        return found

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
