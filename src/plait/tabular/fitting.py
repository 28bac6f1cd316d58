"""The same parts as a study: preparation, network and training, for one table in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from plait.batch import Part, Records
from plait.data import Dataset, DataSpec, Preparation, SplitSpec, TableSpec, TaskSpec, load
from plait.data.seeding import generator
from plait.data.text import text_of
from plait.method import Method, resolve
from plait.networks import Network, build_network, features_of, priors_of
from plait.networks.transformer import Transformer
from plait.tabular.form import Array
from plait.training import Run, Training, train
from plait.training.loop import Watcher

TABLE = "rows"
LEAST_VALID = 10  # fewer rows than that say too little to stop by
ROWS = 4096  # rows predicted at once


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained network, what turns rows into its inputs, and what became of its training."""

    network: Network
    preparation: Preparation
    run: Run


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a network is built and trained; methods by name, spelling or object."""

    sharing: Method | str | Mapping[str, Any]
    balancing: Method | str | Mapping[str, Any]
    procedure: Method | str | Mapping[str, Any]
    encoder: Mapping[str, Any]
    types: Mapping[str, str]
    training: Training
    validation_fraction: float
    seed: int
    observers: Sequence[Watcher]


def fit_table(
    inputs: pl.DataFrame,
    targets: pl.DataFrame,
    tasks: Mapping[str, TaskSpec],
    weight: Array | None,
    way: Way,
) -> Fitted:
    """Train one network for all tasks on the rows [n] of inputs and targets.

    ``weight`` [n] counts the rows' labels. Raises :class:`plait.data.DataError` for faulty data and
    :class:`plait.method.MethodError` for methods that do not exist.
    """
    sharing = resolve("sharing", way.sharing)
    balancing = resolve("balancing", way.balancing)
    procedure = resolve("procedure", way.procedure)
    dataset = _dataset(inputs, targets, tasks, weight, way)
    network = build_network(
        inputs=dataset.inputs,
        tasks=dataset.tasks,
        encoder=way.encoder,
        sharing=sharing,
        seed=way.seed,
        priors=priors_of(dataset),
    )
    features = features_of(network, dataset)
    run = train(
        network,
        dataset.extra_inputs(features) if features else dataset,
        way.training,
        balancer=balancing,
        procedure=procedure,
        seed=way.seed,
        observers=way.observers,
    )
    return Fitted(network=settled(network), preparation=dataset.preparation, run=run)


def _dataset(
    inputs: pl.DataFrame,
    targets: pl.DataFrame,
    tasks: Mapping[str, TaskSpec],
    weight: Array | None,
    way: Way,
) -> Dataset:
    """The rows with columns of their own for labels, weights and the split."""
    taken = [*inputs.columns]
    names = {name: _fresh(f"y: {name}", taken) for name in targets.columns}
    frame = inputs.hstack(targets.rename(names))
    specs = {name: replace(tasks[name], target=names[name]) for name in tasks}
    if weight is not None:
        column = _fresh("sample_weight", taken)
        frame = frame.with_columns(pl.Series(column, weight))
        specs = {name: replace(spec, weight=column) for name, spec in specs.items()}
    split = SplitSpec(fractions=(1.0, 0.0, 0.0))
    held = held_out(targets, tasks, way.validation_fraction, way.seed)
    if held.any():
        column = _fresh("split", taken)
        frame = frame.with_columns(pl.Series(column, np.where(held, "valid", "train")))
        split = SplitSpec(kind="column", by=column)
    table = TableSpec(source=frame, types=way.types)
    data = DataSpec(tables={TABLE: table}, split=split)
    return load(data, specs, text=text_of(way.encoder))


def _fresh(name: str, taken: list[str]) -> str:
    """A column name that is not taken yet."""
    while name in taken:
        name += "'"
    taken.append(name)
    return name


def held_out(
    targets: pl.DataFrame, tasks: Mapping[str, TaskSpec], fraction: float, seed: int
) -> Array:
    """The rows [n] that validate, drawn at random; none where they would be fewer than ten.

    Of every class of every task, and of every other task, a label stays in training.
    """
    rows = len(targets)
    wanted = int(fraction * rows)
    held = np.zeros(rows, dtype=bool)
    if wanted < LEAST_VALID:
        return held
    order = generator(seed, "validation").permutation(rows)
    kept = np.zeros(rows, dtype=bool)
    for name in targets.columns:
        values = targets[name].gather(order)
        if tasks[name].classes is None:
            values = values.is_not_null().replace_strict({True: 1, False: None})
        firsts = pl.DataFrame({"value": values, "row": order}).drop_nulls()
        kept[firsts.unique("value", keep="first")["row"].to_numpy()] = True
    held[order[~kept[order]][:wanted]] = True
    return held


def settled(network: Network) -> Network:
    """A trained network, ready to predict: in double precision, so that what is said of a row does
    not depend on the rows beside it. Pretrained encoders stay as they are.
    """
    large = any(isinstance(module, Transformer) for module in network.modules())
    if not large and next(network.parameters()).device.type != "mps":  # which has no float64
        network = network.double()
    return network.eval()


def predicted(network: Network, part: Part, rows: int) -> dict[str, Array]:
    """Every task's predictions for all rows: a probability or a value [n], or shares [n, C]."""
    device = next(network.parameters()).device
    pieces: dict[str, list[Array]] = {}
    for start in range(0, rows, ROWS):
        here = {key: tensor[start : start + ROWS].to(device) for key, tensor in part.items()}
        count = min(ROWS, rows - start)
        asked = {}
        for key, group in network.tasks.groups.items():
            task = torch.arange(len(group.tasks), device=device).repeat_interleave(count)
            row = torch.arange(count, device=device).repeat(len(group.tasks))
            asked[key] = Records(task, row)
        for key, values in network.predict({TABLE: here}, asked).items():
            names = network.tasks.groups[key].tasks
            by_task = values.double().cpu().numpy().reshape(len(names), count, *values.shape[1:])
            for name, found in zip(names, by_task, strict=True):
                pieces.setdefault(name, []).append(found)
    return {name: np.concatenate(found) for name, found in pieces.items()}
