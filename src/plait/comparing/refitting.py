"""The chosen strategy once more, on all labelled rows: the model to deploy."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.comparing.card import told
from plait.comparing.cells import Cell, make, ordered
from plait.comparing.gathering import chosen
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.predictor import Predictor
from plait.comparing.strategy import Strategy
from plait.method import did_you_mean

if TYPE_CHECKING:
    from plait.comparing.study import Study


def refit(study: Study, folder: Path, label: str | None = None) -> Predictor:
    """Train a strategy on every labelled row, test rows included, and write it to a folder.

    What the study chose on validation is kept: the mean best pass takes the place of early
    stopping, a coefficient that was searched is given. Raises ``ValueError`` for a label that the
    study does not have, or of which no cell finished.
    """
    label = label or chosen(study)
    if label not in study.strategies:
        raise ValueError(f"no strategy {label!r}{did_you_mean(label, study.strategies)}")
    cells = [
        cell
        for place, cell in study.cells().items()
        if place.label == label and study.store.finished(cell.key)
    ]
    if not cells:
        raise ValueError(f"no cell of {label!r} has finished; see failures()")
    strategy = cells[0].strategy.settled(_evidence(study, cells[0]))
    plan = _everything(study, cells)
    model = _run(plan, strategy)
    about = {
        "title": study.title,
        "id": study.id,
        "label": label,
        "rows": "all labelled rows",
        **make(plan, strategy, 0).describe(),
        "study": told(study, label),
    }
    predictor = Predictor(model, plan.dataset.preparation, about)
    predictor.save(folder)
    return predictor


def _everything(study: Study, cells: list[Cell]) -> Plan:
    """The plan with all rows for training, and passes for what early stopping found."""
    found = [_evidence(study, cell).get("best_pass") for cell in cells]
    passes = [each for each in found if each is not None]
    training = replace(cells[0].plan.training, patience=None)
    if passes:
        training = replace(training, passes=max(1, round(float(np.mean(passes)))))
    dataset = study.plans[0].dataset.with_split(all_train=True)
    given = cells[0].plan
    return Plan.of(
        dataset,
        encoder=given.encoder,
        training=training,
        folder=study.folder,
        base=given.base,
        experts=given.experts,
    )


def _run(plan: Plan, strategy: Strategy) -> Model:
    models: dict[str, Model] = {}
    with tempfile.TemporaryDirectory(prefix="plait-refit-") as folder:
        for cell in ordered([make(plan, strategy, 0)]):
            parts = {name: models[part.key] for name, part in cell.parts.items()}
            place = Path(folder) / cell.key
            models[cell.key] = cell.strategy.run(cell.plan, parts, cell.seed, place)
    return models[cell.key]


def _evidence(study: Study, cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = study.store.read(cell.key, "model/model.json")["evidence"]
    return found
