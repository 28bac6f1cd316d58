"""Weights of covariance alignment for a study of one table, as its study file has them.

    python benchmarks/studies/alignment.py benchmarks/studies/balancing_sarcos.yaml --rank 2

The inputs are the columns as the networks read them (categories as indicator columns, text as the
counts of its hashed n-grams), standardised over the training rows; binary and real targets only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from plait.balancing.covariance_alignment import CovarianceAlignment
from plait.comparing.declared import Declared
from plait.data import Dataset
from plait.data.text import text_of
from plait.recipes.study import read


def loaded(path: Path, sample: float | None) -> Dataset:
    """The data of a study file."""
    spec = read(path).located(path.parent)
    declared = Declared(
        data=spec.data,
        tasks=spec.tasks,
        text=text_of(spec.encoder),
        sample=sample,
        base=path.parent,
    )
    return declared.load(0)


def columns(name: str, values: Tensor) -> Tensor:
    """Inputs [m, …] as numbers [m, d]."""
    if values.is_floating_point():
        return values.reshape(len(values), -1).double()
    if name.startswith("text."):  # numbers of hashed n-grams, 0 where a text has ended
        counts = torch.zeros(len(values), int(values.max()) + 1, dtype=torch.float64)
        counts.scatter_add_(1, values, torch.ones_like(values, dtype=torch.float64))
        return counts[:, 1:]
    seen = [column.unique() for column in values.T]
    pairs = zip(values.T, seen, strict=True)
    return torch.cat([(column[:, None] == each[None]).double() for column, each in pairs], 1)


def main() -> None:
    """Print the balancer as a study file has it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--sample", type=float)
    given = parser.parse_args()
    dataset = loaded(given.study, given.sample)
    rows = dataset.rows("train")
    batch = dataset.batch(rows)
    (part,) = batch.parts.values()
    x = torch.cat([columns(name, value) for name, value in part.items()], 1)
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0)
    labels = {}
    for name in dataset.tasks.names:
        found = batch.task(name)
        y = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        y[found.rows] = found.target.double()
        labels[name] = y
    weights = CovarianceAlignment.of(x, labels, rank=given.rank).weights or {}
    told = ", ".join(f"{name}: {value:.3f}" for name, value in weights.items())
    print(f"covariance_alignment: {{weights: {{{told}}}}}")


if __name__ == "__main__":
    main()
