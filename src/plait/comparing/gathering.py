"""From a run's folder to what a report shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from plait.comparing.answer import answer
from plait.comparing.card import told
from plait.comparing.cells import Cell
from plait.comparing.contrasts import Contrast, contrasts
from plait.comparing.emit import emit
from plait.comparing.evaluate import read_predictions
from plait.comparing.leaderboard import Contender, standings
from plait.comparing.predictor import Predictor
from plait.comparing.ranking import Ranking
from plait.comparing.results import AdapterSize, Cost, Failure, Mixture, Results, Usage
from plait.comparing.statistics import DEFINITIONS, CellPredictions, TaskPredictions, rank
from plait.comparing.watching import Log, agreement, curves
from plait.method import spell
from plait.metrics import METRICS
from plait.weights.files import read_json

if TYPE_CHECKING:
    from plait.comparing.study import Place, Study

MANY = 8  # strategies from which ranks and corrected tests are told


def gather(study: Study) -> Results:
    """Everything a report shows. Raises ``ValueError`` where no cell has finished."""
    cells = study.cells()
    finished = {place: cell for place, cell in cells.items() if study.store.finished(cell.key)}
    if not finished:
        raise ValueError(f"{study.folder}: no cell has finished; see failures()")
    test, valid = ranking(study, finished, "test"), ranking(study, finished, "valid")
    failed = failures(study)
    contenders = [
        Contender(
            strategy=label,
            words=strategy.words() + remark(study, label, finished),
            recipe=spell(strategy),
            baseline=strategy.baseline,
            cost=cost_of(study, label, finished),
            failed="" if any(place.label == label for place in finished) else _why(label, failed),
        )
        for label, strategy in study.strategies.items()
    ]
    rows = standings(contenders, test, valid)
    tables = study.tables()
    logged = [(list(curves(log)), agreement(log)) for log in logs(study, finished)]
    return Results(
        title=study.title,
        answer=answer(rows, test, valid),
        standings=rows,
        scores=test.scores,
        failures=failed,
        tasks=tables[0]["summary"],
        facts=tables[0]["facts"],
        warnings=tables[0]["warnings"],
        curves=tuple(curve for own, _ in logged for curve in own),
        agreements=tuple(each for _, each in logged if each is not None),
        usages=tuple(usages(study, finished)),
        adapters=tuple(adapters(study, finished)),
        mixtures=tuple(mixtures(study, finished)),
        contrasts=compared(test),
        definitions={
            **DEFINITIONS,
            **{name: METRICS[name].words for task in study.tasks for name in task.metrics},
        },
        recipe=study.about.get("recipe") or plain_recipe(study),
        environment=read_json(study.folder / "plait.lock.json"),
        notes=[*notes(study), *test.notes],
        caption=study.about.get("caption", ""),
        pictures=study.about.get("pictures", ()),
    )


def ranking(study: Study, finished: Mapping[Place, Cell], split: str) -> Ranking:
    """All finished cells measured on the rows of a split."""
    read: dict[str, dict[str, TaskPredictions]] = {}
    predictions = []
    for place, cell in finished.items():
        if cell.key not in read:
            path = study.store.path(cell.key) / "predictions.parquet"
            read[cell.key] = read_predictions(path, study.tasks, split)
        if random(cell):
            cell_of = CellPredictions(place.label, place.init, read[cell.key], place.split)
        elif place.init == 0:  # the one cell stands for every seed
            cell_of = CellPredictions(place.label, None, read[cell.key], place.split)
        else:
            continue
        predictions.append(cell_of)
    return rank(predictions, study.tasks)


def compared(test: Ranking) -> tuple[Contrast, ...]:
    """Every strategy against the reference, where there are many."""
    if len(test.blocks) < MANY or test.reference not in test.blocks:
        return ()
    return tuple(contrasts(test.blocks, test.reference))


def logs(study: Study, finished: Mapping[Place, Cell]) -> Iterator[Log]:
    """What each cell logged while it trained."""
    for place, cell in finished.items():
        path = study.store.path(cell.key) / "events.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        yield Log(place.label, seed_name(study, place), [json.loads(line) for line in lines])


def usages(study: Study, finished: Mapping[Place, Cell]) -> Iterator[Usage]:
    """How the tasks of each cell use experts, where it has any."""
    for place, cell in finished.items():
        told = study.store.read(cell.key, "model/model.json")["evidence"].get("experts", [])
        for use in told:
            named = {name: use[name] for name in ("tasks", "experts", "owners", "load", "failures")}
            yield Usage(strategy=place.label, seed=seed_name(study, place), **named)


def adapters(study: Study, finished: Mapping[Place, Cell]) -> Iterator[AdapterSize]:
    """What the adapters of each cell store, where it has any."""
    for place, cell in finished.items():
        told = study.store.read(cell.key, "model/model.json")["evidence"].get("adapters")
        if told:
            yield AdapterSize(
                strategy=place.label,
                seed=seed_name(study, place),
                trained=told["trained"],
                common=told["common"],
                stored=list(told["stored"].values()),
            )


def mixtures(study: Study, finished: Mapping[Place, Cell]) -> Iterator[Mixture]:
    """How much of each model the merge of each cell took, where it tells."""
    for place, cell in finished.items():
        told = study.store.read(cell.key, "model/model.json")["evidence"]
        rows = told.get("coefficients", told.get("routes", {}))
        if "kept" in told or ("models" in told and rows):
            yield Mixture(
                strategy=place.label,
                seed=seed_name(study, place),
                models=told.get("models", []),
                rows=rows if "models" in told else {},
                kept=told.get("kept", ""),
            )


def _why(label: str, failed: Sequence[Failure]) -> str:
    return next((each.error for each in failed if each.strategy == label), "no cell finished")


def random(cell: Cell) -> bool:
    """Whether a cell depends on the seed."""
    return cell.strategy.random(cell.plan) or any(random(part) for part in cell.parts.values())


def remark(study: Study, label: str, finished: Mapping[Place, Cell]) -> str:
    """What a reader of a strategy's row must know of how its cells were computed."""
    mine = [cell for place, cell in finished.items() if place.label == label]
    cells = {each.key for cell in mine for each in (cell, *cell.ancestors())}
    told = [study.store.read(key, "cell.json") for key in cells if study.store.finished(key)]
    halved = any("micro_batches" in cell.get("retried", {}) for cell in told)
    return ", with half the micro-batch after running out of memory" if halved else ""


def failures(study: Study) -> list[Failure]:
    """The cells that did not finish: those that failed, and those that were never started."""
    found = []
    for place, cell in study.cells().items():
        if study.store.finished(cell.key):
            continue
        failed = study.store.failure(cell.key)
        why = failed.error if failed else "not started: the time was up or the run was stopped"
        found.append(Failure(place.label, seed_name(study, place), why, cell.key))
    return found


def seed_name(study: Study, place: Place) -> str:
    """A seed as tables show it."""
    return f"{place.init}" if study.seeds["split"] == 1 else f"{place.init} (split {place.split})"


def cost_of(study: Study, label: str, finished: Mapping[Place, Cell]) -> Cost:
    """The mean cost over seeds, with the seconds of parts and trials."""
    cells = {cell.key: cell for place, cell in finished.items() if place.label == label}
    if not cells:
        return Cost()
    costs = {key: study.store.read(key, "cost.json") for key in cells}
    memory = [cost["memory"] for cost in costs.values() if cost["memory"] is not None]
    return Cost(
        parameters=_mean(cost["parameters"] for cost in costs.values()),
        active=_mean(cost["active"] for cost in costs.values()),
        seconds=_spent(study, label, cells, "seconds"),
        processor=_spent(study, label, cells, "processor"),
        memory=max(memory, default=None),
        latency=_mean(cost["latency"] for cost in costs.values()),
    )


def _spent(study: Study, label: str, cells: Mapping[str, Cell], kind: str) -> float | None:
    """The mean seconds of a strategy's cells, and those of its trials; None if not known."""
    tried = {cell.key: cell for cell in study.trials(label) if study.store.finished(cell.key)}
    extra = [_seconds(study, cell, kind) for key, cell in tried.items() if key not in cells]
    mean = _mean(_seconds(study, cell, kind) for cell in cells.values())
    return None if mean is None else mean + sum(each or 0.0 for each in extra)


def _seconds(study: Study, cell: Cell, kind: str) -> float | None:
    """The seconds of a cell and of the parts it needed, each part once."""
    keys = {cell.key, *(part.key for part in cell.ancestors())}
    costs = [study.store.read(key, "cost.json") for key in keys if study.store.finished(key)]
    known = [cost[kind] for cost in costs if kind in cost]
    return float(sum(known)) if len(known) == len(costs) else None


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def best(study: Study, label: str | None = None) -> Predictor:
    """The model of the chosen strategy (or of a label) with the lowest validation loss.

    Raises ``ValueError`` for an unknown label, or one of which no cell finished.
    """
    from plait.method import did_you_mean

    label = label or chosen(study)
    if label not in study.strategies:
        raise ValueError(f"no strategy {label!r}{did_you_mean(label, study.strategies)}")
    scored = []
    for place, cell in study.cells().items():
        if place.label == label and study.store.finished(cell.key):
            loss = study.store.read(cell.key, "cost.json")["valid_loss"]
            scored.append((float("inf") if loss is None else loss, place.split, place.init, cell))
    if not scored:
        raise ValueError(f"no cell of {label!r} has finished; see failures()")
    *_, cell = min(scored, key=lambda row: row[:3])
    predictor = Predictor.load(study.store.path(cell.key) / "model")
    predictor.about |= {"title": study.title, "label": label, "study": told(study, label)}
    return predictor


def chosen(study: Study) -> str:
    """The strategy that the leaderboard says to use."""
    rows = study.results.standings
    return next((row.strategy for row in rows if row.chosen), rows[0].strategy)


def notes(study: Study) -> Iterator[str]:
    """The budget, and what a seed changes."""
    training = study.plans[0].training
    budget = f"Budget: at most {training.passes} passes over each task's labelled training rows"
    if training.patience is not None:
        budget += f", ended after {training.patience} without a better validation loss"
    yield (
        f"{budget}; the weights with the best validation loss are kept. Merging splits the same "
        "passes between a common start and the experts."
    )
    if study.tune.trials > 1:
        yield (
            f"Tuning: {study.tune.trials} trials for each strategy over "
            f"{', '.join(study.tune.over)}, chosen by validation loss and counted in the seconds; "
            "what a strategy does not have is not tried."
        )
    init, split = study.seeds["init"], study.seeds["split"]
    changes = "the first weights, the order of rows and what is random in a method"
    yield f"{init} {'seed' if init == 1 else 'seeds'} of training: a seed changes {changes}." + (
        " The split of the rows is always the same."
        if split == 1
        else f" The rows are split {split} times, and figures are over all splits."
    )
    if study.declared is not None and study.declared.sample is not None:
        yield f"Only a sample of {study.declared.sample:.0%} of the rows was used."


def plain_recipe(study: Study) -> str:
    """The study in YAML, as far as it was not given as a file."""
    told = study.to_json()
    kept = {key: told[key] for key in ("title", "encoder", "training", "seeds") if told[key]}
    kept |= {"tune": told["tune"]} if study.tune.trials > 1 else {}
    return emit({**kept, "strategies": {label: spell(one) for label, one in study.given.items()}})
