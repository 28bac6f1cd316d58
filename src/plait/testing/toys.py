"""Toy problems whose answer is known: quadratics with chosen cosines, small batches, small tables.

>>> problem = Quadratics.with_cosine(-0.5, tasks=2)
>>> problem.cosines().round(decimals=6).tolist()
[[1.0, -0.5], [-0.5, 1.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from plait.batch import Batch, Input, Labels, Parts
from plait.losses import LOSSES
from plait.task import Task, TaskSet


@dataclass(frozen=True)
class Quadratics:
    """Losses L_i(θ) = f_i + ‖θ + g_i‖²/2: at θ = 0 the gradients are exactly the rows g_i [T, P].

    ``floor`` f [T] keeps the losses positive, so that methods which take logarithms can run.
    """

    tasks: tuple[str, ...]
    gradients: Tensor
    floor: Tensor

    @classmethod
    def with_cosines(
        cls,
        cosines: Tensor,
        *,
        norms: Sequence[float] | None = None,
        size: int = 8,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """Gradients with the given matrix of cosines [T, T] and norms, in ``size`` dimensions."""
        count = len(cosines)
        generator = torch.Generator().manual_seed(seed)
        rotation, _ = torch.linalg.qr(
            torch.randn(size, count, generator=generator, dtype=torch.float64)
        )
        root = torch.linalg.cholesky(cosines.double() + 1e-14 * torch.eye(count))
        lengths = torch.tensor(norms if norms is not None else [1.0] * count, dtype=torch.float64)
        names = tuple(f"t{i}" for i in range(count))
        rows = lengths[:, None] * (root @ rotation.T)
        floor = torch.linspace(0.5, 1.5, count, dtype=torch.float64)
        return cls(names, rows.to(dtype), floor.to(dtype))

    @classmethod
    def with_cosine(cls, cosine: float, *, tasks: int = 2, size: int = 8, seed: int = 0) -> Self:
        """Unit gradients, every pair at the same cosine (above −1/(T − 1))."""
        matrix = torch.full((tasks, tasks), cosine, dtype=torch.float64)
        return cls.with_cosines(matrix.fill_diagonal_(1.0), size=size, seed=seed)

    @classmethod
    def random(
        cls, tasks: int = 4, *, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> Self:
        """Independent normal gradients of unequal lengths, some of them in conflict."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
        rows *= torch.linspace(0.5, 2.0, tasks, dtype=torch.float64)[:, None]
        floor = torch.linspace(0.5, 1.5, tasks, dtype=torch.float64)
        return cls(tuple(f"t{i}" for i in range(tasks)), rows.to(dtype), floor.to(dtype))

    def losses(self, point: Tensor) -> Tensor:
        """L(θ), [T], with its graph."""
        return self.floor + (point[None] + self.gradients).square().sum(1) / 2

    def origin(self) -> Tensor:
        """θ = 0, [P], ready for gradients."""
        return torch.zeros_like(self.gradients[0]).requires_grad_()

    def cosines(self) -> Tensor:
        """The cosines between the gradients at θ = 0, [T, T]."""
        unit = nn.functional.normalize(self.gradients, dim=1)
        return unit @ unit.T

    def permuted(self, order: Sequence[int]) -> Self:
        """The same tasks in another order."""
        index = torch.as_tensor(order)
        names = tuple(self.tasks[i] for i in order)
        return replace(self, tasks=names, gradients=self.gradients[index], floor=self.floor[index])

    def scaled(self, factors: float | Tensor) -> Self:
        """Every gradient times its factor (one for all, or [T]); floors stay."""
        column = torch.as_tensor(factors, dtype=self.gradients.dtype).expand(len(self.tasks))
        return replace(self, gradients=self.gradients * column[:, None])


def toy_tasks(kinds: Sequence[str] = ("binary", "real", "binary", "classes", "counts")) -> TaskSet:
    """One task per kind given, named by kind and position; class tasks have three classes."""
    classes = {"binary": ("no", "yes"), "classes": ("x", "y", "z"), "ordinal": ("1", "2", "3")}
    return TaskSet(
        Task(name=f"{kind}.{i}", kind=kind, classes=classes.get(kind, ()))
        for i, kind in enumerate(kinds)
    )


def toy_inputs(width: int = 4) -> dict[str, Input]:
    """The inputs of :func:`toy_batch`: one numeric of the given width."""
    return {"numeric": Input(key="numeric", type="numeric", shape=(width,))}


def toy_batch(
    tasks: TaskSet,
    *,
    rows: int = 24,
    missing: float = 0.3,
    width: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """A batch with mixed kinds and missing labels. A row's labels depend on seed and task name."""
    generator = torch.Generator().manual_seed(seed)
    numeric = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    labels: dict[str, Labels] = {}
    for key, group in tasks.groups.items():
        found = [_records(tasks[name], numeric, missing, seed) for name in group.tasks]
        count = torch.tensor([len(chosen) for chosen, _ in found])
        if count.sum():
            labels[key] = Labels(
                torch.repeat_interleave(torch.arange(len(found)), count),
                torch.cat([chosen for chosen, _ in found]),
                torch.cat([target for _, target in found]),
            )
            if group.kind not in ("classes", "ordinal"):
                labels[key] = replace(labels[key], target=labels[key].target.to(dtype))
    return Batch(
        parts={"table": {"numeric": numeric.to(dtype)}},
        labels=labels,
        tasks=tasks,
        ids=torch.arange(rows),
    )


def _records(task: Task, numeric: Tensor, missing: float, seed: int) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(seed + 1000 + sum(map(ord, task.name)))
    rows = len(numeric)
    chosen = torch.nonzero(torch.rand(rows, generator=own) >= missing)[:, 0]
    direction = torch.randn(numeric.shape[1], generator=own, dtype=torch.float64)
    score = numeric @ direction + 0.3 * torch.randn(rows, generator=own, dtype=torch.float64)
    match task.kind:
        case "binary":
            target = (score > 0).double()
        case "classes" | "ordinal":
            edges = torch.linspace(-1, 1, len(task.classes) - 1, dtype=torch.float64)
            target = torch.bucketize(score, edges)
        case "counts":
            target = torch.poisson(score.clamp(-3, 2).exp(), generator=own)
        case _:
            target = score
    return chosen, target[chosen]


def labelled_again(batch: Batch, task: str, keep: Tensor) -> Batch:
    """The batch with only those records of one task for which ``keep`` is true."""
    key = batch.tasks[task].group
    place = batch.tasks.groups[key].position[task]
    labels = batch.labels[key]
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[labels.task == place] = keep
    return replace(batch, labels={**batch.labels, key: labels.select(mask)})


class ToyEncoder(nn.Module):
    """The smallest encoder: the numeric inputs of all parts through one tanh layer."""

    def __init__(self, inputs: int = 4, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.width = width
        self.weight = nn.Parameter(torch.randn(width, inputs, generator=generator) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, parts: Parts) -> Tensor:
        """[rows of all parts, width]."""
        rows = torch.cat([part["numeric"] for part in parts.values()])
        return torch.tanh(rows @ self.weight.T + self.bias)


class ToyNetwork(nn.Module):
    """A toy encoder and one linear head per task, for loops written by hand."""

    def __init__(self, tasks: TaskSet, inputs: int = 4, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        self.tasks = tasks
        self.encoder = ToyEncoder(inputs, width, seed)
        self.heads = nn.ModuleList(nn.Linear(width, task.outputs) for task in tasks)
        for head, task in zip(self.heads, tasks, strict=True):
            own = torch.Generator().manual_seed(seed + sum(map(ord, task.name)))
            for parameter in head.parameters():
                parameter.data.normal_(0, 0.3, generator=own)

    def shared(self) -> list[nn.Parameter]:
        """The encoder's parameters."""
        return list(self.encoder.parameters())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of every task that has a label here."""
        features = self.encoder(batch.parts)
        found = {}
        for task, head in zip(self.tasks, self.heads, strict=True):
            labels = batch.task(task.name)
            if len(labels):
                raw = head(features[labels.rows])
                found[task.name] = LOSSES[task.loss].per_row(raw, labels.target).mean()
        return found


def toy_frame(rows: int = 200, *, missing: float = 0.2, seed: int = 0) -> pl.DataFrame:
    """A table with numbers, a category, a text and five targets of mixed kinds, some missing.

    Columns: id, x0…x3, colour, note; targets ripe (binary), grade (classes), stars (1 to 4), price
    (real), sold (counts). The targets share one hidden direction, so learning together can help.
    """
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(rows, 4))
    colour = draw.choice(["red", "green", "blue"], rows)
    hidden = numbers @ np.array([1.0, -0.8, 0.5, 0.0]) + 0.7 * (colour == "red")
    noise = draw.normal(size=(rows, 5))
    targets: Mapping[str, list[object]] = {
        "ripe": list((hidden + 0.5 * noise[:, 0] > 0).astype(int)),
        "grade": list(
            np.array(["low", "mid", "top"])[np.digitize(hidden + noise[:, 1] / 2, (-0.7, 0.7))]
        ),
        "stars": list(np.digitize(hidden + noise[:, 2] / 2, (-1.0, 0.0, 1.0)) + 1),
        "price": list(20 + 5 * (hidden + 0.5 * noise[:, 3])),
        "sold": list(draw.poisson(np.exp(np.clip(hidden / 2 + 0.1 * noise[:, 4], -3, 3)))),
    }
    words = np.where(hidden > 0, "sweet ripe fruit", "dry bitter leaf")
    frame = pl.DataFrame(
        {
            "id": [f"r{i:04d}" for i in range(rows)],
            **{f"x{i}": numbers[:, i] for i in range(4)},
            "colour": colour.tolist(),
            "note": [f"{text} {draw.integers(9)}" for text in words],
        }
    )
    for name, values in targets.items():
        gone = draw.random(rows) < missing
        frame = frame.with_columns(
            pl.Series(
                name,
                [None if out else _scalar(value) for out, value in zip(gone, values, strict=True)],
            )
        )
    return frame


def _scalar(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
