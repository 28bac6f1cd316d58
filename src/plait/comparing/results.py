"""What a study found, as plain data: the leaderboard, the tables and the report all read this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plait.comparing.contrasts import Contrast


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; all three are None where the figure is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def defined(self) -> bool:
        return self.value is not None

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


UNDEFINED = Interval(None)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one way to a model costs, a mean over its seeds; ``None`` where it was not measured.

    Parameters stored and active for one row, seconds of training (parts and trials included) by the
    clock and of all processor threads, peak bytes of memory, and seconds per row for the
    predictions of all tasks.
    """

    parameters: float | None = None
    active: float | None = None
    seconds: float | None = None
    processor: float | None = None
    memory: float | None = None
    latency: float | None = None


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One task under one strategy: a figure per metric, and the gain over ``separate``.

    ``gain`` is the relative change of the ranking metric in per cent, higher is better.
    ``reason`` says why the ranking metric is undefined.
    """

    strategy: str
    task: str
    metrics: Mapping[str, Interval]
    gain: Interval = UNDEFINED
    reason: str = ""

    @property
    def harmed(self) -> bool:
        """Negative transfer: worse than ``separate`` beyond noise."""
        return self.gain.high is not None and self.gain.high < 0

    @property
    def helped(self) -> bool:
        return self.gain.low is not None and self.gain.low > 0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One row of the leaderboard.

    ``gain`` is Δm averaged over tasks, ``gain_metrics`` Δm averaged over all metrics. ``score`` is
    the mean of the ranking metric over tasks where all share one (``metric``). ``tied`` marks the
    strategies whose difference to the best lies inside the noise. ``failed`` holds the reason for
    strategies none of whose cells finished.
    """

    strategy: str
    words: str
    recipe: Any
    baseline: bool
    seeds: int
    gain: Interval = UNDEFINED
    gain_metrics: Interval = UNDEFINED
    metric: str = ""
    score: Interval = UNDEFINED
    cost: Cost = Cost()
    tied: bool = False
    chosen: bool = False
    harmed: tuple[str, ...] = ()
    helped: tuple[str, ...] = ()
    failed: str = ""


@dataclass(frozen=True)
class Failure:
    """A cell that did not finish, and why."""

    strategy: str
    seed: str
    error: str
    cell: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The first thing a reader sees: one of four forms, then what to use.

    ``form`` is ``one`` (one model is as good), ``mixed`` (share these and separate those),
    ``baseline`` (a plain baseline wins) or ``unclear`` (too little data to tell).
    """

    form: str
    headline: str
    use: str
    reasons: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    separate: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one cell logged while training: a series per task over steps."""

    strategy: str
    seed: str
    kind: str  # loss | valid | weight | norm | conflict | front, whose steps are its points
    steps: Sequence[int]
    series: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The mean cosines of task gradients in one cell, [T, T]; None where a pair never met."""

    strategy: str
    seed: str
    tasks: Sequence[str]
    cosines: Sequence[Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How the tasks of one cell use the experts of one mixture, on validation rows.

    ``load`` [T, E] is the mean share of a task's gate, None where the expert is not open to it;
    ``owners`` [E] are whose the experts are (None: shared), ``failures`` what has gone wrong.
    """

    strategy: str
    seed: str
    tasks: Sequence[str]
    experts: Sequence[str]
    owners: Sequence[str | None]
    load: Sequence[Sequence[float | None]]
    failures: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class AdapterSize:
    """How many parameters one cell's adapters trained, in their last stage.

    ``common`` of them are all tasks' together; ``stored`` [T] is what each task has of its own.
    """

    strategy: str
    seed: str
    trained: int
    common: int
    stored: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How much of each model one cell's merge took, and what it kept of what it tuned.

    ``rows`` [M] by name are coefficients by tensor, or a router's weights by task; empty where the
    merge tells none.
    """

    strategy: str
    seed: str
    models: Sequence[str]
    rows: Mapping[str, Sequence[float]]
    kept: str = ""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a report shows, in the order it shows it. Standings are best first."""

    title: str
    answer: Answer
    standings: Sequence[Standing]
    scores: Sequence[TaskScore]
    failures: Sequence[Failure]
    tasks: Sequence[Mapping[str, Any]]  # name, kind, counts per split, ranking metric
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    agreements: Sequence[Agreement] = ()
    usages: Sequence[Usage] = ()
    adapters: Sequence[AdapterSize] = ()
    mixtures: Sequence[Mixture] = ()
    contrasts: Sequence[Contrast] = ()  # where strategies are many
    definitions: Mapping[str, str] = field(default_factory=dict)
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()  # budget, what a seed changes, how intervals were made
    caption: str = ""
    pictures: Sequence[str] = ()  # inline SVG or data URIs shown under the caption
