"""A study: tasks × strategies × seeds, measured with one ruler and kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import plait
from plait.comparing.arguments import unknown_tasks
from plait.comparing.baselines import read_seeds, with_baselines
from plait.comparing.cells import Cell, Shard, make, ordered
from plait.comparing.declared import Declared, relative
from plait.comparing.formats import FORMAT, read, refuse_another, understood
from plait.comparing.given import GivenExperts
from plait.comparing.plan import Plan
from plait.comparing.store import Store
from plait.comparing.tune import Tune
from plait.method import resolve, spell
from plait.settings import Training
from plait.task import Task, TaskSet
from plait.training.interrupts import Terminated
from plait.weights.files import write_atomic

if TYPE_CHECKING:
    from plait.comparing.leaderboard import Leaderboard
    from plait.comparing.predictor import Predictor
    from plait.comparing.progress import Progress
    from plait.comparing.results import Failure, Results
    from plait.data import Dataset


@dataclass(frozen=True)
class Place:
    """Where a cell stands in a study: a label, a seed of the weights and a split of the rows."""

    label: str
    init: int
    split: int


class Study:
    """Strategies on one plan, with several seeds.

    ``plans`` is one plan, or one for each split of the rows. ``strategies`` maps labels to methods
    or their spelling; ``separate`` and the plain baselines are added to them. ``seeds`` says how
    often weights are drawn (``init``) and rows are split (``split``). Everything is kept in
    ``folder``: a study made again with the same folder computes only what is missing.

    Raises ``ValueError`` (:class:`plait.method.MethodError`) for strategies that do not exist.
    """

    def __init__(
        self,
        plans: Plan | Sequence[Plan],
        strategies: Mapping[str, Any],
        *,
        folder: str | Path,
        seeds: Mapping[str, int] | int | None = None,
        tune: Mapping[str, Any] | Tune | None = None,
        title: str = "",
        declared: Declared | None = None,
        about: Mapping[str, Any] | None = None,
        baselines: bool = True,
    ) -> None:
        self.folder = Path(folder)
        plans = [plans] if isinstance(plans, Plan) else list(plans)
        self.plans = [replace(plan, folder=self.folder) for plan in plans]
        self.given = {str(label): resolve("strategy", one) for label, one in strategies.items()}
        self.seeds = read_seeds(seeds)
        if self.seeds["split"] != len(self.plans):
            raise ValueError(f"{self.seeds['split']} splits need as many plans, not {len(plans)}")
        self.tune = Tune.of(tune)
        self.title = title
        self.declared = declared
        self.about = dict(about or {})  # recipe, caption, pictures: shown by the report
        self.strategies = with_baselines(self.given, self.plans[0]) if baselines else self.given
        self._cells: dict[tuple[Place, int], Cell] = {}
        self._open_tables: list[dict[str, Any]] | None = None
        self._gathered: tuple[Any, Results] | None = None

    def __repr__(self) -> str:
        done = sum(self.store.finished(cell.key) for cell in self.cells().values())
        return f"Study({len(self.strategies)} strategies, {done} cells done, in {self.folder})"

    @property
    def tasks(self) -> TaskSet:
        """The tasks, as the first split's training rows describe them."""
        return self.plans[0].tasks

    @property
    def id(self) -> str | None:
        """The column of the rows' ids, if one is declared."""
        return None if self.declared is None else self.declared.data.id

    @cached_property
    def store(self) -> Store:
        """The folder of the run; made when it is first asked for."""
        return Store(self.folder)

    # -- what is to be computed -----------------------------------------------------------------

    def places(self) -> Iterator[Place]:
        """All places, those of the first seeds first: a study cut short has compared something."""
        for split in range(self.seeds["split"]):
            for init in range(self.seeds["init"]):
                for label in self.strategies:
                    yield Place(label, init, split)

    def trials(self, label: str) -> list[Cell]:
        """The trials of a strategy, with the first seed."""
        numbers = self.tune.numbers(label, self.strategies[label])
        return [self._cell(Place(label, 0, 0), number) for number in numbers]

    def chosen_trial(self, label: str) -> int | None:
        """The trial with the lowest validation loss; None while some are still to be done."""
        cells = self.trials(label)
        if len(cells) == 1:
            return 0
        losses = {}
        for number, cell in enumerate(cells):
            if self.store.finished(cell.key):
                losses[number] = self.store.read(cell.key, "cost.json")["valid_loss"]
            elif self.store.failure(cell.key) is None:
                return None
        scored = {number: loss for number, loss in losses.items() if loss is not None}
        return min(scored, key=lambda number: (scored[number], number)) if scored else 0

    def cells(self) -> dict[Place, Cell]:
        """The cells whose settings are known, by place."""
        chosen = {label: self.chosen_trial(label) for label in self.strategies}
        return {
            place: self._cell(place, number)
            for place in self.places()
            if (number := chosen[place.label]) is not None
        }

    def wanted(self, shard: Shard | None = None) -> list[Cell]:
        """Every cell that is to be computed as far as is known, parts first, trials before all.

        Of a shard, with all that its cells need: other shards may never run beside it.
        """
        return self._ordered(self.cells(), shard)

    def planned(self, shard: Shard | None = None) -> list[Cell]:
        """The cells that are wanted, and those that will be once all trials are done.

        Which settings a tuned strategy's other seeds get is not known before; here they have those
        of its first trial.
        """
        return self._ordered(self._planned(), shard)

    def _planned(self) -> dict[Place, Cell]:
        known = self.cells()
        return {place: known.get(place) or self._cell(place, 0) for place in self.places()}

    def _ordered(self, places: Mapping[Place, Cell], shard: Shard | None) -> list[Cell]:
        trials = {label: self.trials(label) for label in self.strategies}
        if shard is not None:
            mine = self._share(shard)
            trials = {label: trials[label] for label in {place.label for place in mine}}
            places = {place: cell for place, cell in places.items() if place in mine}
        first = [c for mine in trials.values() for c in mine] if self.tune.trials > 1 else []
        return ordered([*first, *places.values()])

    def _share(self, shard: Shard) -> set[Place]:
        """The places of a shard: dealt out in turn, those that share a cell together."""
        keys = {place: self._cell(place, 0).key for place in self.places()}
        order = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
        return {place for place, key in keys.items() if shard.has(order[key])}

    def label_of(self, key: str) -> str:
        """The label a cell is computed for, for messages; of a part also what it is."""
        named = [
            (place.label + (f" seed {place.init}" if self.seeds["init"] > 1 else ""), cell)
            for place, cell in self._planned().items()
        ]
        for label in self.strategies:
            named += [(f"{label} trial {n}", cell) for n, cell in enumerate(self.trials(label))]
        for label, cell in named:
            for one in (cell, *cell.ancestors()):
                if one.key == key:
                    return label if one is cell else f"{one.strategy.card.name} for {label}"
        return key

    def _cell(self, place: Place, number: int) -> Cell:
        if (place, number) not in self._cells:
            strategy, plan = self.strategies[place.label], self.plans[place.split]
            strategy, plan = self.tune.trial(number, place.label, strategy, plan)
            self._cells[place, number] = make(plan, strategy, place.init)
        return self._cells[place, number]

    def check(self) -> None:
        """Raise ``ValueError`` with everything that would keep a strategy from running."""
        wrong = []
        for label, strategy in self.strategies.items():
            try:
                strategy.check(self.plans[0])
            except ValueError as error:
                wrong.append(f"strategy {label!r}: {error}")
            unknown = unknown_tasks(strategy, self.tasks.names)
            wrong += [f"strategy {label!r}: {said}" for said in unknown]
        try:
            self.tune.check(self.strategies)
        except ValueError as error:
            wrong.append(str(error))
        if wrong:
            raise ValueError("\n".join(wrong))

    # -- running --------------------------------------------------------------------------------

    def run(
        self,
        *,
        workers: int = 0,
        time: float | None = None,
        cell_time: float | None = None,
        shard: str | None = None,
        on: str | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Compute what is missing; failures are kept as rows, and shown by :meth:`failures`.

        ``workers`` processes share the cells; 0: this process computes them itself, and a lack of
        memory that ends it ends all. After ``time`` seconds no further cell is started; a cell that
        takes longer than ``cell_time`` has failed. ``shard``, such as ``3/50``, is the share that
        this call computes, ``on="ray"`` spreads the cells over a Ray cluster. Any number of
        processes and machines may run one folder. SIGTERM saves and leaves with the exit code 143.
        Raises ``ValueError`` where it holds a run of another study, and ``OSError`` where it cannot
        be written.
        """
        from plait.comparing.running import Bounds, run_study

        share = None if shard is None else Shard.read(shard)
        with Terminated():
            bounds = Bounds.of(time, cell=cell_time, shard=share)
            self.check()
            self.write()
            run_study(self, bounds, workers=workers, on=on, progress=progress)
        return self

    def estimate(self) -> float:
        """About how many seconds the missing cells take in turn, from a few timed steps."""
        from plait.comparing.forecast import expected

        return sum(expected(self).values())

    def write(self) -> None:
        """Write the study's own files into its folder; the errors are those of :meth:`run`."""
        from plait.comparing.environment import lock
        from plait.comparing.space import keeping, writable

        told = self.to_json()
        refuse_another(self.folder, told)
        writable(self.folder)
        with keeping(self.folder):
            self.store.write("study.json", told)
            self.store.write("plait.lock.json", lock(self))
            if self.about.get("recipe"):
                write_atomic(self.folder / "study.yaml", self.about["recipe"].encode())

    # -- what was found -------------------------------------------------------------------------

    @property
    def results(self) -> Results:
        """Everything a report shows, from the cells that are finished."""
        from plait.comparing.gathering import gather

        state = (tuple(self.store.keys()), tuple(self.failures()))
        if self._gathered is None or self._gathered[0] != state:
            self._gathered = (state, gather(self))
        return self._gathered[1]

    def leaderboard(self) -> Leaderboard:
        """The strategies, best first; shows itself as a table in a terminal and in a notebook."""
        from plait.comparing.leaderboard import Leaderboard

        return Leaderboard(self.results.standings)

    def failures(self) -> list[Failure]:
        """The cells that did not finish, and why."""
        from plait.comparing.gathering import failures

        return failures(self)

    def best(self, label: str | None = None) -> Predictor:
        """The model to use (or a label's), of the seed with the lowest validation loss."""
        from plait.comparing.gathering import best

        return best(self, label)

    def report(self, path: str | Path | None = None, format: str | None = None) -> Path:  # noqa: A002
        """Write the report (default: ``report.html`` in the run) and return its path.

        ``format`` is html, markdown, latex or csv, or follows the file's ending.
        """
        from plait.comparing.report import write

        return write(self.results, path or self.folder / f"report.{format or 'html'}", format)

    def refit(self, folder: str | Path, label: str | None = None) -> Predictor:
        """Train the chosen strategy (or a label's) on all labelled rows, into a folder."""
        from plait.comparing.refitting import refit

        return refit(self, Path(folder), label)

    def tables(self) -> list[dict[str, Any]]:
        """What is known of the data for each split, without loading them where a run has it."""
        if self._open_tables is not None:
            return self._open_tables
        return [
            {
                "fingerprint": plan.fingerprint,
                "tasks": [task.to_json() for task in plan.tasks],
                "summary": plan.dataset.summary(),
                "facts": list(plan.dataset.facts),
                "warnings": list(plan.dataset.warnings),
            }
            for plan in self.plans
        ]

    def to_json(self) -> dict[str, Any]:
        """The study as plain data, from which :meth:`open` makes it again."""
        return {
            "format": FORMAT,
            "plait": plait.__version__,
            "title": self.title,
            "strategies": {label: spell(one) for label, one in self.strategies.items()},
            "given": list(self.given),
            "seeds": dict(self.seeds),
            "tune": self.tune.to_json(),
            "encoder": dict(self.plans[0].encoder),
            "training": asdict(self.plans[0].training),
            "tables": self.tables(),
            **({} if (given := self.plans[0].experts) is None else {"experts": given.to_json()}),
            "base": relative(self.plans[0].base or Path(), self.folder),
            "declared": None if self.declared is None else self.declared.to_json(self.folder),
            "about": self.about,
        }

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The study kept in a folder. The data are loaded only if something must be computed.

        Raises :class:`DamagedError` where the folder holds no study, or one of a newer version.
        """
        folder = Path(folder)
        data = read(folder)
        with understood(folder, data):
            return cls._of(data, folder)

    @classmethod
    def _of(cls, data: Mapping[str, Any], folder: Path) -> Self:
        declared = data["declared"] and Declared.from_json(data["declared"], folder)
        plans = [
            Plan(
                tasks=TaskSet(Task.from_json(row) for row in table["tasks"]),
                fingerprint=table["fingerprint"],
                source=partial(_load, declared, split, table["fingerprint"], folder),
                encoder=data["encoder"],
                base=folder / data["base"],
                experts=GivenExperts(**data["experts"]) if "experts" in data else None,
                training=Training(**data["training"]),
            )
            for split, table in enumerate(data["tables"])
        ]
        study = cls(
            plans,
            data["strategies"],
            folder=folder,
            seeds=data["seeds"],
            tune=data["tune"],
            title=data["title"],
            declared=declared,
            about=data["about"],
            baselines=False,
        )
        study.given = {label: study.strategies[label] for label in data["given"]}
        study._open_tables = data["tables"]
        return study


def _load(declared: Declared | None, split: int, fingerprint: str, folder: Path) -> Dataset:
    if declared is None:
        raise ValueError(f"{folder}: the data of this run were given as objects and are not kept")
    dataset = declared.load(split, cache=folder / "cache")
    if dataset.fingerprint != fingerprint:
        raise ValueError(
            f"{folder}: the data have changed since this run was started; restore them, or start "
            "a new run in another folder"
        )
    return dataset
