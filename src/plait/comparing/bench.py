"""A plait network on the bench of a merger: its trunk is merged, its heads are the experts'."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from plait.batch import Batch
from plait.comparing.model import featured
from plait.comparing.plan import Plan
from plait.data.dataset import Dataset, Split
from plait.losses import LOSSES
from plait.merging.bench import Bench, Seen, array
from plait.merging.pool import Array
from plait.method import Need
from plait.networks import Network

OFFERS = frozenset(
    {
        Need.UNLABELLED,
        Need.LABELLED,
        Need.HEADS,
        Need.FEATURES,
        Need.BACKWARD,
        Need.ROUTER_DATA,
    }
)
WORDS: Mapping[Split, str] = {"train": "training rows", "valid": "validation rows"}


class NetworkBench(Bench):
    """A network, and the labelled rows of its tasks in the training or the validation split.

    Test rows are never there. As unlabelled rows of a task serve its rows without their labels.
    """

    def __init__(self, plan: Plan, network: Network, split: Split = "train") -> None:
        if split not in WORDS:
            raise ValueError(f"a merger sees training or validation rows, not {split!r}")
        self.network = network.eval()
        self._data: Dataset = featured(network, plan.dataset, plan.folder)
        self._split = split
        super().__init__(
            network.trunk,
            {task.name: task.loss for task in network.tasks},
            offers=OFFERS,
            fingerprint=self._told(plan),
            cache=plan.folder and plan.folder / "statistics",
            words=WORDS[split],
        )

    def count(self, task: str) -> int:
        return len(self._data.places(task, self._split))

    def _head(self, task: str) -> tuple[Tensor, Tensor] | None:
        group = self.network.tasks.groups[self.network.tasks[task].group]
        if group.place != "row" or self.network.trunk.chain is not None:
            return None
        bank, place = self.network.heads.bank(group.key), group.position[task]
        return bank.stack("weight").detach()[place], bank.stack("bias").detach()[place]

    def _run(self, task: str, rows: Array) -> Seen:
        batch = self._batch(task, rows)
        outputs = self.network(batch.parts, batch.labels)
        (group,) = batch.labels
        raw, features = outputs.raw[group], outputs.features[group].records
        valid = batch.labels[group].valid
        if valid is None:
            return Seen(features, raw)
        cut = (slice(None), *(slice(size) for size in valid.shape[1:]))
        return Seen(features, raw[cut][valid])

    def _loss(self, task: str, rows: Array, seen: Seen) -> Tensor:
        (labels,) = self._batch(task, rows).labels.values()
        per_row = LOSSES[self.losses[task]].per_row
        target = labels.target if labels.valid is None else labels.target[labels.valid]
        return per_row(seen.raw, target)

    def _batch(self, task: str, rows: Array) -> Batch:
        """The rows in the order asked for, each with the task's record only."""
        places = self._data.places(task, self._split)[rows]
        batch = self._data.drawn({self.network.tasks[task].group: places})
        ((group, labels),) = batch.labels.items()
        asked = self._data.rows(self._split, task)[torch.from_numpy(rows)]
        there = torch.argsort(batch.ids[labels.rows], stable=True)  # rows of several tables move
        order = torch.empty_like(there)
        order[torch.argsort(asked, stable=True)] = there
        batch = replace(batch, labels={group: labels.select(order)})
        return batch.to(next(self.network.parameters()).device)

    def _told(self, plan: Plan) -> str:
        """The data, the split and the heads."""
        found = hashlib.blake2b(f"{plan.fingerprint} {self._split}".encode(), digest_size=16)
        for name, tensor in sorted(self.network.heads.state_dict().items()):
            found.update(name.encode("utf-8", "surrogatepass"))
            found.update(np.ascontiguousarray(array(tensor)).tobytes())
        return found.hexdigest()
