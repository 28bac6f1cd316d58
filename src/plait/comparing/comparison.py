"""``plait.compare``: a study in one call."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.comparing import arguments
from plait.comparing.baselines import read_seeds
from plait.comparing.declared import Declared
from plait.comparing.given import GivenExperts
from plait.comparing.plan import Plan
from plait.comparing.study import Study
from plait.data import Dataset, DataSpec, SplitSpec, TableSpec, TaskSpec
from plait.data.text import text_of
from plait.method import did_you_mean
from plait.settings import Training
from plait.training.interrupts import Terminated

if TYPE_CHECKING:
    from plait.comparing.progress import Progress
    from plait.comparing.tune import Tune

USUAL: Mapping[str, Any] = {
    "joint": "joint",
    "weighted": {"joint": {"balancing": "uncertainty"}},
    "projected": {"joint": {"balancing": "pcgrad"}},
    "experts": {"joint": {"sharing": "mmoe"}},
    "merged": {"merge": "task_arithmetic"},
}
MERGES: Mapping[str, Any] = {
    "average": {"merge": "average"},
    "summed": {"merge": "task_arithmetic"},
    "elected": {"merge": "ties"},
    "spectral": {"merge": "tsv"},
}  # of experts that are there: nothing is trained


def compare(
    data: Any,
    tasks: Mapping[str, Any] | Sequence[str] | None = None,
    strategies: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    targets: Sequence[str] | Mapping[str, str] | None = None,
    encoder: Mapping[str, Any] | None = None,
    training: Training | Mapping[str, Any] | None = None,
    experts: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int] | int | None = None,
    split: SplitSpec | None = None,
    id: str | None = None,  # noqa: A002
    intervals: str | None = None,
    tune: Mapping[str, Any] | Tune | None = None,
    sample: float | None = None,
    out: str | Path | None = None,
    title: str = "",
    about: Mapping[str, Any] | None = None,
    base: Path | None = None,
    workers: int = 0,
    time: float | None = None,
    cell_time: float | None = None,
    shard: str | None = None,
    on: str | None = None,
    progress: Progress | None = None,
    run: bool = True,
) -> Study:
    """Train and measure every strategy on some tasks; returns the :class:`Study`, already run.

    ``data`` is a table (polars, pandas, Arrow, a dict of arrays, a path), a dict of tables by name,
    a ``DataSpec`` or a ``Dataset`` of :mod:`plait.data`. ``targets`` are columns to predict;
    ``tasks`` says more: names with a ``TaskSpec``, its settings or a kind.
    ``strategies`` maps labels to methods (or lists their names); ``separate`` and plain baselines
    are always there. ``experts`` are models made elsewhere, ``{"models": {task: folder}}`` with
    ``base`` beside them, which merges take in place of training their own. ``out`` is the folder of
    the run, else a temporary one until the process ends: a study made again there computes only
    what is missing. ``workers``, ``time``, ``cell_time``, ``shard`` and ``on`` say how it is
    computed, and SIGTERM ends it: see :meth:`Study.run`.
    Raises ``DataError`` for faulty data, ``ValueError`` for other mistakes, before any training.
    """
    arguments.check(**locals())
    with Terminated():
        ready = None if experts is None else GivenExperts.of(experts, base)
        same = {"encoder": dict(encoder or {}), "training": _training(training), "base": base}
        folder = _temporary() if out is None else Path(out)
        counts = read_seeds(seeds)
        declared = None
        if not isinstance(data, Dataset):
            declared = Declared(
                data=_data(data, key=id, split=split, intervals=intervals),
                tasks=_tasks(tasks, targets), text=text_of(encoder or {}), sample=sample, base=base,
            ).kept(folder / "data")  # fmt: skip
        elif tasks is not None or targets is not None:
            raise ValueError("a Dataset has its tasks already; leave tasks and targets out")
        datasets = _datasets(data, declared, counts["split"], folder / "cache")
        plans = [Plan.of(dataset, **same, experts=ready) for dataset in datasets]
        study = Study(plans, _strategies(strategies, experts), folder=folder, seeds=counts,
                      tune=tune, title=title, declared=declared, about=about)  # fmt: skip
        bounds: dict[str, Any] = {"time": time, "cell_time": cell_time, "shard": shard}
        return study.run(workers=workers, on=on, progress=progress, **bounds) if run else study


def _datasets(data: Any, declared: Declared | None, splits: int, cache: Path) -> list[Dataset]:
    """The data set of every split."""
    if declared is not None:
        return [declared.load(number, cache) for number in range(splits)]
    if splits > 1:
        raise ValueError("a Dataset is split already; give tables to split them several times")
    return [data]


def _strategies(
    given: Mapping[str, Any] | Sequence[str] | None, experts: Mapping[str, Any] | None
) -> dict[str, Any]:
    if not given:
        return dict(MERGES if experts else USUAL)
    if isinstance(given, Mapping):
        # {joint: {}} and {joint: null} are the method of that name with its defaults.
        return {label: spelled or label for label, spelled in given.items()}
    return {name: name for name in ([given] if isinstance(given, str) else given)}


def _training(given: Training | Mapping[str, Any] | None) -> Training:
    if isinstance(given, Training):
        return given
    if not isinstance(given, Mapping | None):
        raise ValueError(f"training must be a mapping, such as {{'passes': 20}}; got {given!r}")
    known = [each.name for each in fields(Training)]
    for name in given or {}:
        if name not in known:
            raise ValueError(f"training: no setting {name!r}{did_you_mean(name, known)}")
    return Training(**(given or {}))


def _data(
    data: Any, *, key: str | None, split: SplitSpec | None, intervals: str | None
) -> DataSpec:
    if isinstance(data, DataSpec):
        if key is not None or split is not None or intervals is not None:
            raise ValueError("a DataSpec says id, split and intervals itself")
        return data
    if isinstance(data, Mapping) and data and all(_is_table(one) for one in data.values()):
        tables = {str(name): _table(one) for name, one in data.items()}
    else:
        tables = {"table": _table(data)}
    return DataSpec(tables=tables, id=key, split=split, intervals=intervals)


def _is_table(value: Any) -> bool:
    """Whether a value of a dict is a table, and not a column."""
    if isinstance(value, (str, Path, TableSpec, Mapping)):
        return True
    if type(value).__module__.partition(".")[0] == "datasets":
        return False  # a dict of these is one table by split
    return hasattr(value, "columns") or hasattr(value, "column_names")


def _table(value: Any) -> TableSpec:
    return value if isinstance(value, TableSpec) else TableSpec(source=value)


def _tasks(
    tasks: Mapping[str, Any] | Sequence[str] | None,
    targets: Sequence[str] | Mapping[str, str] | None,
) -> dict[str, TaskSpec]:
    if (tasks is None) == (targets is None):
        raise ValueError("give either targets (columns to predict) or tasks")
    given: Any = targets if tasks is None else tasks
    if not isinstance(given, Mapping):
        given = dict.fromkeys([given] if isinstance(given, str) else given)
    return {str(name): _task(str(name), one) for name, one in given.items()}


def _task(name: str, given: Any) -> TaskSpec:
    if isinstance(given, TaskSpec):
        return given
    if given is None or isinstance(given, str):
        return TaskSpec(target=name, kind=given)
    known = [each.name for each in fields(TaskSpec)]
    for setting in given:
        if setting not in known:
            raise ValueError(f"task {name!r}: no setting {setting!r}{did_you_mean(setting, known)}")
    return TaskSpec(**given)


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="plait-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
