"""Synthetic ``Results`` as real studies look: small, wide, very wide, damaged and hostile."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from plait.comparing.contrasts import Contrast, contrasts
from plait.comparing.results import (
    UNDEFINED,
    Agreement,
    Answer,
    Cost,
    Curve,
    Failure,
    Interval,
    Mixture,
    Results,
    Standing,
    TaskScore,
    Usage,
)

LOWER = {"rmse", "mae", "log_loss"}
METRICS = {
    "binary": ("auroc", "average_precision", "accuracy", "log_loss"),
    "classes": ("accuracy", "macro_f1", "log_loss"),
    "real": ("rmse", "r2", "mae", "spearman"),
}
DEFINITIONS = {
    "gain": "The relative change of a task's ranking metric against separate models, in per cent; "
    "the sign is turned so that higher is better.",
    "auroc": "The chance that a random positive row is scored above a random negative one; "
    "0.5 is guessing, 1 is perfect.",
    "accuracy": "The share of rows whose most probable class is the right one.",
    "rmse": "The square root of the mean squared error, in the units of the target; 0 is perfect.",
    "r2": "The share of the target's variance that is explained; 0 is the mean, 1 is perfect.",
}
ENVIRONMENT = {
    "plait": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "device": "cpu", "threads": 2,
    "seeds": [0, 1, 2], "started": "2026-11-21T04:18:23Z",
}  # fmt: skip
NOTES = (
    "Every strategy sees each task's labelled rows the same number of times: 30 passes.",
    "A seed changes the first weights, the order of the rows and dropout; the split stays.",
    "Intervals: 1,000 paired bootstrap samples over test rows and over seeds, 95 %.",
)


def picture(seed: int, width: int = 66, height: int = 36) -> str:
    """A small grey PNG as a data URI, with no imaging library."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    grey = np.zeros((height, width))
    for left in (16, 48):
        radius = rng.uniform(7, 12)
        ring = np.hypot(x - left - rng.normal(), (y - height / 2) * rng.uniform(0.7, 1)) - radius
        grey += np.exp(-((ring / 1.8) ** 2))
    pixels = (255 - 235 * grey.clip(0, 1)).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw))
    return "data:image/png;base64," + base64.b64encode(png + chunk(b"IEND", b"")).decode()


def around(value: float, half: float, rng: np.random.Generator) -> Interval:
    """An interval of about that half-width, not quite centred."""
    tilt = rng.uniform(0.85, 1.15)
    return Interval(float(value), float(value - half * tilt), float(value + half * (2 - tilt)))


def agreements_of(tasks: Sequence[str], strategies: Sequence[str]) -> list[Agreement]:
    """Two camps of tasks that agree among themselves and conflict with the other; a loner."""
    camp = np.array([1.0 if i % 2 else -1.0 for i in range(len(tasks))])
    camp[-1] = 0.0
    found = []
    for place, strategy in enumerate(strategies):
        noise = np.random.default_rng(place).normal(0, 0.08, (len(tasks), len(tasks)))
        mean = (0.45 * np.outer(camp, camp) + (noise + noise.T) / 2).clip(-1, 1)
        cosines = [
            [None if i == j else float(v) for j, v in enumerate(row)] for i, row in enumerate(mean)
        ]
        found.append(Agreement(strategy=strategy, seed="0", tasks=tasks, cosines=cosines))
    return found


def usages_of(tasks: Sequence[str], strategy: str, shared: int = 2) -> list[Usage]:
    """Two seeds and levels of an expert for each task beside shared ones; the first goes alone."""
    owners = [*tasks, *[None] * shared]
    experts = [f"expert 1 of {name}" for name in tasks]
    experts += [f"shared expert {number + 1}" for number in range(shared)]
    load = []
    for name in tasks:
        own = 0.9 if name == tasks[0] else 0.01
        rest = [(1 - own) * part / sum(range(1, shared + 1)) for part in range(1, shared + 1)]
        load.append([own if owner == name else None for owner in owners[:-shared]] + rest)
    wrong = (f"underfit: {tasks[-1]} gives 1.0% of its gate to its own experts",)
    return [
        Usage(
            strategy=strategy, seed=seed, tasks=tasks, experts=experts, owners=owners, load=load,
            failures=wrong if level else (),
        )
        for seed in ("0", "1")
        for level in range(2)
    ]  # fmt: skip


def contrasts_of(scores: Sequence[TaskScore]) -> list[Contrast]:
    """Ranks and tests over the tasks' gains, as if each had one seed."""
    gains: dict[str, list[float]] = {}
    for score in scores:
        gains.setdefault(score.strategy, []).append(100 + (score.gain.value or 0.0))
    return contrasts({name: np.array(row)[:, None] for name, row in gains.items()}, "separate")


def task_scores(
    tasks: Sequence[Mapping[str, Any]],
    effects: Mapping[str, Mapping[str, float]],
    noise: float,
    seed: int,
    bases: Mapping[str, float] | None = None,
) -> list[TaskScore]:
    """Scores of every strategy on every task from the wanted gains in per cent."""
    rng = np.random.default_rng(seed)
    found = []
    for task in tasks:
        metrics = METRICS[task["kind"]]
        base = (bases or {}).get(task["name"], rng.uniform(0.68, 0.86))
        for strategy, effect in effects.items():
            gain = effect[task["name"]]
            half = noise * rng.uniform(0.7, 1.3) * math.sqrt(400 / max(task["test"], 20))
            figures = {}
            for place, name in enumerate(metrics):
                start = base * (1 + 0.04 * place)
                change = -gain if name in LOWER else gain
                value = start * (1 + change / 100 * (1 - 0.2 * place))
                figures[name] = around(value, start * half / 100, rng)
            zero = strategy == "separate"
            measured = Interval(0.0, 0.0, 0.0) if zero else around(gain, half, rng)
            found.append(
                TaskScore(strategy=strategy, task=task["name"], metrics=figures, gain=measured)
            )
    return found


def standings_of(
    ways: Sequence[tuple[str, str, Any, bool, Cost]],
    scores: Sequence[TaskScore],
    metric: str,
    chosen: str,
    tied: Sequence[str],
    seeds: int = 3,
) -> list[Standing]:
    """The leaderboard that belongs to the scores, best first."""
    rows = []
    for name, words, recipe, baseline, cost in ways:
        mine = [score for score in scores if score.strategy == name]
        gains = [score.gain.value or 0.0 for score in mine]
        half = np.mean([(s.gain.high or 0) - (s.gain.low or 0) for s in mine]) / 2
        half = float(half) / math.sqrt(len(mine))
        mean = float(np.mean(gains))
        zero = name == "separate"
        level = float(np.mean([s.metrics[metric].value for s in mine])) if metric else 0.0
        rows.append(
            Standing(
                strategy=name, words=words, recipe=recipe, baseline=baseline, seeds=seeds,
                gain=Interval(0.0, 0.0, 0.0) if zero else Interval(mean, mean - half, mean + half),
                gain_metrics=(
                    Interval(0.0, 0.0, 0.0) if zero
                    else Interval(mean * 0.8, mean * 0.8 - half, mean * 0.8 + half)
                ),
                metric=metric,
                score=Interval(level, level - half / 130, level + half / 130) if metric
                else UNDEFINED,
                cost=cost, tied=name in tied, chosen=name == chosen,
                harmed=tuple(s.task for s in mine if s.harmed),
                helped=tuple(s.task for s in mine if s.helped),
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: -(row.gain.value or 0.0))


def curves_of(
    tasks: Sequence[str], strategies: Mapping[str, bool], steps: int, seeds: int = 2
) -> list[Curve]:
    """Loss curves of the strategies; weights and conflict for those marked True."""
    found = []
    for place, (strategy, balanced) in enumerate(strategies.items()):
        for seed in range(seeds):
            rng = np.random.default_rng([place, seed])
            at = list(range(0, steps, max(steps // 60, 1)))
            x = np.asarray(at) / steps
            loss, valid, weight = {}, {}, {}
            for number, task in enumerate(tasks):
                pace = 3 + 4 * ((number * 7 + place * 3) % 5) / 5
                floor = 0.25 + 0.05 * (number % 4)
                fall = floor + 0.6 * np.exp(-pace * x)
                loss[task] = [float(v) for v in fall * rng.lognormal(0, 0.05, len(at))]
                turn = fall + 0.12 + 0.1 * place * x**2 + 0.01 * rng.normal(size=len(at))
                valid[task] = [None if i % 4 else float(v) for i, v in enumerate(turn)]
                drift = 1 + 0.6 * math.sin(number + place) * x
                weight[task] = [float(v) for v in drift + 0.02 * rng.normal(size=len(at))]
            kinds = {"loss": loss, "valid": valid}
            if strategy != "separate":
                cosine = 0.35 - 0.3 * x + 0.03 * rng.normal(size=len(at)) - 0.05 * place
                share = (0.2 + 0.35 * x + 0.03 * rng.normal(size=len(at))).clip(0, 1)
                measures = {
                    "cosine": cosine, "share": share, "similarity": 0.9 - 0.2 * x + 0 * share,
                    "condition": 10 ** (1 + 2 * x), "curvature": 0.9 + 0.5 * share,
                }  # fmt: skip
                kinds["conflict"] = {name: row.tolist() for name, row in measures.items()}
                kinds["norm"] = {
                    task: (np.exp(-x) * (1 + 6 * (number % 3 == 0))).tolist()
                    for number, task in enumerate(tasks)
                }
            if balanced:
                kinds["weight"] = weight
            found += [
                Curve(strategy=strategy, seed=str(seed), kind=kind, steps=at, series=series)
                for kind, series in kinds.items()
            ]
    return found


def demo() -> Results:
    """Four tasks on generated scenes: help and harm in one picture."""
    tasks = [
        {"name": "left", "kind": "classes", "train": 150, "valid": 60, "test": 600,
         "metric": "accuracy"},
        {"name": "right", "kind": "classes", "train": 150, "valid": 60, "test": 600,
         "metric": "accuracy"},
        {"name": "sum", "kind": "real", "train": 3000, "valid": 300, "test": 600,
         "metric": "rmse"},
        {"name": "larger", "kind": "binary", "train": 3000, "valid": 300, "test": 600,
         "metric": "auroc"},
    ]  # fmt: skip
    names = [task["name"] for task in tasks]

    def effect(*values: float) -> dict[str, float]:
        return dict(zip(names, values, strict=True))

    ways = [
        ("separate", "one network per task", "separate", False,
         Cost(parameters=412_800, active=412_800, seconds=41.2, memory=410e6, latency=4.1e-4)),
        ("joint", "one network, hard sharing, equal weights", "joint", False,
         Cost(parameters=104_300, active=104_300, seconds=14.8, memory=310e6, latency=1.1e-4)),
        ("uncertainty", "one network, hard sharing, uncertainty weights",
         {"joint": {"balancing": "uncertainty"}}, False,
         Cost(parameters=104_304, active=104_304, seconds=15.3, memory=312e6, latency=1.1e-4)),
        ("pcgrad", "one network, hard sharing, projected gradients",
         {"joint": {"balancing": "pcgrad"}}, False,
         Cost(parameters=104_300, active=104_300, seconds=31.9, memory=395e6, latency=1.1e-4)),
        ("mmoe", "eight experts mixed by a gate per task",
         {"joint": {"sharing": {"mmoe": {"experts": 8}}}}, False,
         Cost(parameters=611_000, active=611_000, seconds=52.7, memory=702e6, latency=5.6e-4)),
        ("merge", "each task alone from a shared start, trunks averaged",
         {"merge": "average"}, False,
         Cost(parameters=104_300, active=104_300, seconds=58.1, memory=420e6, latency=1.1e-4)),
        ("forest", "a random forest per task", "forest", True,
         Cost(parameters=1_902_000, active=None, seconds=6.2, memory=None, latency=2.3e-4)),
        ("linear", "a linear model per task", "linear", True,
         Cost(parameters=5_800, active=5_800, seconds=0.4, memory=None, latency=6e-6)),
        ("prior", "the training mean or the most common class", "prior", True,
         Cost(parameters=22, active=22, seconds=0.01, memory=None, latency=2e-7)),
    ]  # fmt: skip
    effects = {
        "separate": effect(0, 0, 0, 0),
        "joint": effect(17.4, 18.9, -12.6, 1.1),
        "uncertainty": effect(18.8, 19.6, -2.9, 0.8),
        "pcgrad": effect(16.1, 17.7, -7.8, 0.9),
        "mmoe": effect(9.2, 11.0, -1.6, 1.6),
        "merge": effect(-4.3, -8.1, -31.5, -3.0),
        "forest": effect(-21.3, -19.4, -44.0, -6.1),
        "linear": effect(-38.2, -41.0, -92.0, -9.9),
        "prior": effect(-76.3, -77.1, -138.0, -44.4),
    }
    scores = task_scores(
        tasks, effects, noise=4.0, seed=1,
        bases={"left": 0.46, "right": 0.42, "sum": 1.92, "larger": 0.88},
    )  # fmt: skip
    return Results(
        title="Pairs of handwritten digits",
        answer=Answer(
            form="one",
            headline="One model is as good, at a quarter of the size.",
            use="Use uncertainty: one network, hard sharing, uncertainty weights.",
            reasons=(
                "It lifts the mean over four tasks by 9.1 % against separate models.",
                "It is tied with pcgrad, which takes twice as long to train.",
                "No task is harmed beyond the noise; joint without weights harms sum.",
            ),
        ),
        standings=standings_of(ways, scores, "", "uncertainty", ("uncertainty", "pcgrad")),
        scores=scores,
        failures=(),
        tasks=tasks,
        facts=(
            "6,300 scenes of 12 × 22 pixels; source digits do not cross splits.",
            "left and right: 150 labels each, on different rows; sum and larger: 3,000.",
            "76 % of the labels are missing.",
        ),
        warnings=("left, right: 150 training labels for 10 classes; the smallest class has 9.",),
        curves=curves_of(
            names,
            {"separate": False, "joint": False, "uncertainty": True, "pcgrad": True, "mmoe": False},
            steps=1800,
        ),
        agreements=agreements_of(names, ["joint", "pcgrad"]),
        usages=usages_of(names, "mmoe"),
        definitions=DEFINITIONS,
        recipe=(
            "data:\n  table: scenes.npz\n  split: {column: split}\ntasks:\n"
            "  left: {target: left, kind: classes}\n  right: {target: right, kind: classes}\n"
            "  sum: {target: sum, kind: real}\n  larger: {target: larger, kind: binary}\n"
            "encoder: {image: cnn}\nstrategies:\n  separate: {}\n  joint: {}\n"
            "  uncertainty: {joint: {balancing: uncertainty}}\nseeds: {init: 3, split: 1}\n"
        ),
        environment=ENVIRONMENT,
        notes=NOTES,
        caption="Generated scenes of real digits: each holds two handwritten digits.",
        pictures=tuple(picture(i) for i in range(6)),
    )


_ASSAYS = ["NR-AhR", "NR-AR", "NR-AR-LBD", "NR-Aromatase", "NR-ER", "NR-ER-LBD",
           "NR-PPAR-gamma", "SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53"]  # fmt: skip


def wide(tasks: int, seed: int = 7, title: str = "Assays") -> Results:
    """Many binary tasks, six ways; twelve of them look like Tox21."""
    rng = np.random.default_rng(seed)
    names = _ASSAYS if tasks == 12 else [f"assay_{i:04d}" for i in range(tasks)]
    table = [
        {"name": name, "kind": "binary", "train": int(rng.integers(300, 6000)),
         "valid": int(rng.integers(40, 700)), "test": int(rng.integers(60, 900)),
         "metric": "auroc"}
        for name in names
    ]  # fmt: skip
    pull = rng.normal(0, 3.0, tasks)
    kin = dict(zip(names, pull - pull.mean(), strict=True))

    def effect(mean: float, spread: float) -> dict[str, float]:
        return {n: mean + spread * kin[n] + rng.normal(0, 0.8) for n in names}

    ways = [
        ("separate", "one network per task", "separate", False,
         Cost(parameters=2.7e5 * tasks, active=2.7e5 * tasks, seconds=31.0 * tasks,
              memory=9.1e8, latency=2.1e-5 * tasks)),
        ("joint", "one network, hard sharing", "joint", False,
         Cost(parameters=2.8e5, active=2.8e5, seconds=66.0, memory=7.1e8, latency=2.3e-5)),
        ("pcgrad", "one network, hard sharing, projected gradients",
         {"joint": {"balancing": "pcgrad"}}, False,
         Cost(parameters=2.8e5, active=2.8e5, seconds=180.0, memory=9.9e8, latency=2.3e-5)),
        ("mmoe", "eight experts mixed by a gate per task",
         {"joint": {"sharing": {"mmoe": {"experts": 8}}}}, False,
         Cost(parameters=2.1e6, active=2.1e6, seconds=240.0, memory=1.4e9, latency=9.1e-5)),
        ("boosting", "gradient boosting per task", "boosting", True,
         Cost(parameters=4.0e5, seconds=58.0, latency=5.2e-5)),
        ("linear", "a linear model per task", "linear", True,
         Cost(parameters=8.2e3, active=8.2e3, seconds=3.1, latency=1e-6)),
    ]  # fmt: skip
    effects = {
        "separate": dict.fromkeys(names, 0.0),
        "joint": effect(2.1, 1.0),
        "pcgrad": effect(2.3, 0.9),
        "mmoe": effect(1.4, 0.5),
        "boosting": effect(1.1, 0.8),
        "linear": effect(-5.0, 1.2),
    }
    scores = task_scores(table, effects, noise=2.2, seed=seed + 1)
    standings = standings_of(ways, scores, "auroc", "joint", ("joint", "pcgrad"))
    chosen = next(row for row in standings if row.chosen)
    steps = {"separate": False, "joint": False, "pcgrad": True, "mmoe": False}
    return Results(
        title=title,
        answer=Answer(
            form="mixed" if chosen.harmed else "one",
            headline=f"Share most tasks and keep {len(chosen.harmed)} separate."
            if chosen.harmed else "One model is better, at a twelfth of the size.",
            use="Use joint for the shared tasks.",
            reasons=(
                "The mean AUROC rises beyond the noise.",
                "pcgrad is tied and takes three times as long.",
            ),
            share=tuple(name for name in names if name not in chosen.harmed),
            separate=chosen.harmed,
        ),
        standings=standings,
        scores=scores,
        failures=(),
        tasks=table,
        facts=(f"7,831 molecules, {tasks} assays; 17 % of the labels are missing.",),
        warnings=(),
        curves=curves_of(names, steps, steps=900),
        agreements=agreements_of(names, ["joint", "pcgrad"]),
        usages=usages_of(names, "joint"),
        contrasts=contrasts_of(scores),
        definitions=DEFINITIONS,
        recipe="data: {table: assays.parquet, id: mol_id}\ntasks: {assays: {columns: '*'}}\n",
        environment=ENVIRONMENT,
        notes=NOTES,
    )  # fmt: skip


def damaged() -> Results:
    """Failures, undefined metrics, missing costs, no curves, too little data."""
    whole = demo()
    reason = "the test rows hold one class only"

    def bare(score: TaskScore) -> TaskScore:
        if score.task != "larger":
            return score
        metrics = {**score.metrics, "auroc": UNDEFINED, "average_precision": UNDEFINED}
        return replace(score, metrics=metrics, gain=UNDEFINED, reason=reason)

    lost = {"mmoe", "merge"}
    standings = []
    for row in whole.standings:
        if row.strategy in lost:
            row = replace(
                row, gain=UNDEFINED, gain_metrics=UNDEFINED, cost=Cost(), tied=False, harmed=(),
                helped=(), failed="out of memory: 3 of 3 cells needed more than 2 GB",
            )  # fmt: skip
        elif row.strategy == "prior":
            row = replace(row, gain=Interval(-84.0), gain_metrics=UNDEFINED)
        row = replace(row, harmed=tuple(t for t in row.harmed if t != "larger"))
        standings.append(replace(row, chosen=False, tied=row.strategy not in lost))
    standings.sort(key=lambda row: bool(row.failed))
    return replace(
        whole,
        title="A damaged study",
        answer=Answer(
            form="unclear", headline="Too little data to tell.",
            use="Label more rows of left and right before choosing.",
            reasons=("Every difference lies inside the noise.",),
        ),
        standings=standings,
        scores=[bare(score) for score in whole.scores if score.strategy not in lost],
        failures=[
            Failure(name, str(seed), "RuntimeError: out of memory\n  at step 3\n" * 2, "ab12")
            for name in sorted(lost) for seed in range(3)
        ],
        warnings=("larger: the test rows hold one class only; AUROC is undefined.",),
        curves=(), pictures=(), caption="",
    )  # fmt: skip


PAYLOADS = (
    "<script>document.title='PWNED'</script>",
    "</script><script>document.title='PWNED'</script>",
    "<img src=x onerror=\"document.title='PWNED'\">",
    '"><svg onload="document.title=\'PWNED\'">',
    "' onmouseover='document.title=\"PWNED\"' autofocus onfocus='document.title=\"PWNED\"",
    "<style>*{display:none}</style><!-- <script>",
    "</title></style></textarea><iframe src=\"javascript:parent.document.title='PWNED'\">",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "a|b`c*d_e[f](javascript:alert(1))~g^h#i%j&k\\l{m}$n$",
    "\u202egnp.exe\u202c \x00\x1b[31mred\x07 \ud800",
    "__proto__",
    "constructor",
    "名前 🙂 عربى",
    "x" * 300,
)


def _poisoned(value: Any, payloads: Sequence[str], count: list[int]) -> Any:
    """The same structure with a payload beside every string in it, keys included."""

    def text(old: str) -> str:
        count[0] += 1
        return payloads[count[0] % len(payloads)] + old

    if isinstance(value, str):
        return text(value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"kind"} if isinstance(value, Curve) else {"form"}
        return replace(value, **{
            f.name: _poisoned(getattr(value, f.name), payloads, count)
            for f in fields(value) if f.name not in kept
        })  # fmt: skip
    if isinstance(value, Mapping):
        return {key: _poisoned(item, payloads, count) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_poisoned(item, payloads, count) for item in value)
    return value


def hostile(payloads: Sequence[str] = PAYLOADS) -> Results:
    """Names of strategies, tasks and metrics, and every other text, are payloads."""
    whole = damaged()
    clean = demo()
    tasks = {t["name"]: payloads[i % len(payloads)] + f" {i}" for i, t in enumerate(whole.tasks)}
    ways = {
        row.strategy: payloads[(i + 4) % len(payloads)] + f" {i}"
        for i, row in enumerate(clean.standings)
    }
    metrics = {
        name: payloads[(i + 2) % len(payloads)] + f" {i}"
        for i, name in enumerate(sorted({m for group in METRICS.values() for m in group}))
    }
    count = [0]
    poisoned: Results = _poisoned(
        replace(whole, curves=(), scores=(), standings=(), tasks=()), payloads, count
    )
    return replace(
        poisoned,
        standings=[
            replace(
                row, strategy=ways[row.strategy], words=payloads[i % len(payloads)],
                recipe={payloads[i]: payloads[i + 1]}, metric=payloads[i] if i == 0 else "",
                harmed=tuple(tasks[t] for t in row.harmed),
                helped=tuple(tasks[t] for t in row.helped),
                chosen=i == 0, failed=payloads[i] if row.failed else "",
            )
            for i, row in enumerate(whole.standings)
        ],
        scores=[
            replace(
                score, strategy=ways[score.strategy], task=tasks[score.task],
                metrics={metrics[name]: value for name, value in score.metrics.items()},
                reason=payloads[i % len(payloads)] if score.reason else "",
            )
            for i, score in enumerate(whole.scores)
        ],
        tasks=[
            {**task, "name": tasks[task["name"]], "metric": metrics[task["metric"]],
             "kind": payloads[i], payloads[i + 1]: payloads[i + 2]}
            for i, task in enumerate(whole.tasks)
        ],
        curves=[
            replace(
                curve, strategy=ways[curve.strategy], seed=payloads[i % len(payloads)],
                series={
                    payloads[j] if curve.kind == "conflict" else tasks[name]: values
                    for j, (name, values) in enumerate(curve.series.items())
                },
            )
            for i, curve in enumerate(clean.curves)
        ],
        agreements=[
            replace(each, strategy=ways[each.strategy], tasks=[tasks[n] for n in each.tasks])
            for each in clean.agreements
        ],
        usages=[
            replace(
                each, strategy=ways[each.strategy], seed=payloads[i % len(payloads)],
                tasks=[tasks[n] for n in each.tasks], failures=payloads,
                experts=[payloads[j % len(payloads)] for j in range(len(each.experts))],
                owners=[owner and tasks[owner] for owner in each.owners],
            )
            for i, each in enumerate(clean.usages)
        ],
        mixtures=[
            Mixture(
                strategy=payload, seed=payload, models=payloads[:2],
                rows={payload: [0.5, -0.5]}, kept=payload,
            )
            for payload in payloads
        ],
        contrasts=[
            replace(each, strategy=ways[each.strategy], against=payloads[0])
            for each in contrasts_of(clean.scores)
        ],
        definitions={payload: payload[::-1] + payload for payload in payloads},
        environment={payload: {payload: [payload]} for payload in payloads},
        facts=payloads, notes=payloads, warnings=payloads, caption=payloads[0],
        pictures=(
            *payloads, *clean.pictures[:2],
            '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">'
            + PAYLOADS[0] + '<circle r="9" cx="10" cy="10"/></svg>',
            "data:text/html,<script>document.title='PWNED'</script>",
            "data:image/png;base64,AAAA\" onerror=\"document.title='PWNED'",
        ),
        recipe="\n".join(payloads),
    )  # fmt: skip
