"""The page of the balancing study, from its run folders.

    python benchmarks/balancing_study.py runs/sarcos runs/census runs/tox21 runs/text

Rewrites what stands between the marks in docs/balancing-study.md, and docs/balancing-study.png.
Only seeds that every network has finished count; what is missing is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study_page import interval, plural, rewrite, signed, table

from plait.comparing.cells import Cell
from plait.comparing.contrasts import Contrast, contrasts
from plait.comparing.gathering import cost_of, ranking
from plait.comparing.ranking import Ranking
from plait.comparing.results import Interval
from plait.comparing.study import Place, Study
from plait.method import index

PAGE = Path(__file__).resolve().parent.parent / "docs" / "balancing-study.md"
PICTURE = PAGE.with_suffix(".png")
EQUAL = "equal"
NEUTRAL = "#59636d"


@dataclass(frozen=True)
class Found:
    """One data set: its study, the figures over complete seeds, and each balancer's contrast."""

    study: Study
    figures: Ranking
    contrasts: Sequence[Contrast]
    seeds: int
    cost: Mapping[str, float | None]
    failed: Mapping[str, str]
    idle: Sequence[str]

    @property
    def name(self) -> str:
        return self.study.title.removeprefix("Balancing, ")

    @property
    def balancers(self) -> dict[str, np.ndarray]:
        """The figures [T, K] of the strategies that share one network."""
        names = measured(self.study, self.figures)
        out = idle(self.figures, names)
        return {name: self.figures.blocks[name] for name in names if name not in out}

    def difference(self, label: str) -> Interval:
        """Gain over equal weights, in points of the gain over separate models."""
        return self.figures.difference(label, EQUAL)


def measured(study: Study, figures: Ranking) -> list[str]:
    """The strategies with one joint network that have all their figures."""
    joint = [name for name, one in study.strategies.items() if one.card.name == "joint"]
    return [name for name in joint if name in figures.blocks and name not in figures.incomplete]


def idle(figures: Ranking, names: Sequence[str]) -> list[str]:
    """The strategies that gave the very figures of equal weights: they did nothing here."""
    base = figures.blocks[EQUAL]
    return [name for name in names if name != EQUAL and (figures.blocks[name] == base).all()]


def complete(study: Study) -> dict[Place, Cell]:
    """The cells of the seeds that every network has finished, or has failed for good."""
    cells = study.cells()
    store = study.store
    open_ = {
        place.init
        for place, cell in cells.items()
        if not cell.strategy.baseline
        and not store.finished(cell.key)
        and store.failure(cell.key) is None
    }
    return {
        place: cell
        for place, cell in cells.items()
        if place.init not in open_ and store.finished(cell.key)
    }


def found(folder: Path) -> Found | None:
    """What a run says; None where no seed is complete."""
    if not (folder / "study.json").exists():
        return None
    study = Study.open(folder)
    cells = complete(study)
    if not cells:
        return None
    figures = ranking(study, cells, "test")
    names = measured(study, figures)
    out = idle(figures, names)
    blocks = {name: figures.blocks[name] for name in names if name not in out}
    cost = {label: cost_of(study, label, cells).processor for label in study.strategies}
    failed = {
        failure.strategy: failure.error
        for failure in study.failures()
        if not failure.error.startswith("not started")
    }
    seeds = len({place.init for place in cells})
    return Found(study, figures, contrasts(blocks, EQUAL), seeds, cost, failed, out)


def pooled(parts: Sequence[Found]) -> list[Contrast]:
    """Over the tasks of all data sets, each a block: its mean over seeds."""
    common = set.intersection(*(set(part.balancers) for part in parts))
    names = [name for name in parts[0].balancers if name in common]
    blocks = {
        name: np.concatenate([part.balancers[name].mean(1) for part in parts])[:, None]
        for name in names
    }
    return contrasts(blocks, EQUAL)


# -- words -----------------------------------------------------------------------------------------


def p_value(p: float | None) -> str:
    """A p-value as tables have it."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(each: Contrast) -> str:
    """Better, worse or tied, all comparisons counted."""
    if each.strategy == EQUAL:
        return ""
    if not each.significant:
        return "tied"
    return "▲ better" if each.difference > 0 else "▼ worse"


def section(part: Found) -> list[str]:
    """One data set."""
    tasks, blocks = len(part.figures.tasks), part.contrasts[0].blocks
    lines = [
        f"## {part.name}",
        "",
        f"{tasks} tasks, {plural(part.seeds, 'seed')}, {blocks} blocks. {sentence(part.contrasts)}",
        "",
    ]
    base = part.cost.get(EQUAL)
    rows = []
    for each in part.contrasts:
        name = each.strategy
        spent = part.cost.get(name)
        ratio = f"{spent / base:.1f}" if spent and base else "–"
        apart = "0" if name == EQUAL else interval(part.difference(name))
        signs = "–" if name == EQUAL else f"{each.better}, {each.worse}"
        rows.append([
            f"**{name}**" if name == EQUAL else name, interval(part.figures.gain[name]), apart,
            f"{each.rank:.1f}", signs, p_value(each.adjusted), ratio, verdict(each),
        ])  # fmt: skip
    head = [
        "balancer",
        "gain (Δm), %",
        "over equal",
        "mean rank",
        "blocks better, worse",
        "p (Holm)",
        "cost",
        "",
    ]
    lines += [*table(head, rows), ""]
    if part.idle:
        lines += [
            f"The very figures of equal weights, and not compared: {', '.join(part.idle)}.",
            "",
        ]
    known = {*part.balancers, *part.idle, "separate"}
    others = [name for name in part.figures.strategies if name not in known]
    told = [f"{name} {interval(part.figures.gain[name])}" for name in others]
    if told:
        lines += [f"Gains of the plain baselines: {'; '.join(told)}.", ""]
    for name, error in part.failed.items():
        lines += [f"`{name}` failed: {error.splitlines()[0]}", ""]
    return lines


def sentence(given: Sequence[Contrast]) -> str:
    """Which differ from equal weights beyond noise."""
    better = [e.strategy for e in given if e.significant and e.difference > 0]
    worse = [e.strategy for e in given if e.significant and e.difference < 0]
    tied = len(given) - 1 - len(better) - len(worse)

    def listed(names: Sequence[str]) -> str:
        return ", ".join(f"`{name}`" for name in names) or "none"

    return (
        f"Better than equal weights beyond noise: {listed(better)}; worse: {listed(worse)}; "
        f"tied with them: {tied} of {len(given) - 1}."
    )


def overall(parts: Sequence[Found]) -> list[str]:
    """All data sets together."""
    whole = pooled(parts)
    names = ", ".join(part.name for part in parts)
    told = f"{whole[0].blocks} tasks, each one block with its mean over seeds."
    rows = [
        [
            f"**{e.strategy}**" if e.strategy == EQUAL else e.strategy, f"{e.rank:.1f}",
            "–" if e.strategy == EQUAL else signed(e.difference),
            "–" if e.strategy == EQUAL else f"{e.better}, {e.worse}", p_value(e.adjusted),
            "–" if e.strategy == EQUAL else f"{spread(parts, e.strategy)}", verdict(e),
        ]
        for e in whole
    ]  # fmt: skip
    head = ["balancer", "mean rank", "difference, %", "tasks better, worse", "p (Holm)", "cost", ""]
    return [
        "## All together",
        "",
        f"{names}: {told} {sentence(whole)}",
        "",
        *table(head, rows),
        "",
    ]


def spread(parts: Sequence[Found], name: str) -> str:
    """The lowest and highest cost ratio over the data sets."""
    pairs = [(part.cost.get(name), part.cost.get(EQUAL)) for part in parts]
    ratios = [one / base for one, base in pairs if one and base]
    if not ratios:
        return "–"
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return low if low == high else f"{low}–{high}"


def missing(parts: Sequence[Found], absent: Sequence[str]) -> list[str]:
    """What is not in the page."""
    known = {key.split(".")[1] for key in index() if key.startswith("balancing.")}
    every = set.union(*({*part.balancers, *part.idle} for part in parts))
    lines = []
    if absent:
        lines.append(f"Not finished, and not on this page: {', '.join(absent)}.")
    short = [part for part in parts if part.seeds < part.study.seeds["init"]]
    if short:
        told = ", ".join(f"{p.name} ({p.seeds} of {p.study.seeds['init']} seeds)" for p in short)
        lines.append(f"In part: {told}.")
    late = sorted(known - every)
    if late:
        lines.append(f"In the index and not measured here: {', '.join(late)}.")
    return [line for each in lines for line in (each, "")]


# -- picture ---------------------------------------------------------------------------------------


def picture(parts: Sequence[Found], path: Path) -> None:
    """Gain over equal weights with its interval, a column for each data set."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    order = [each.strategy for each in pooled(parts) if each.strategy != EQUAL][::-1]
    figure, axes = plt.subplots(
        1, len(parts), figsize=(3.2 * len(parts) + 1.6, 0.21 * len(order) + 1.2), sharey=True,
        squeeze=False, dpi=110,
    )  # fmt: skip
    for ax, part in zip(axes[0], parts, strict=True):
        signs = {each.strategy: each for each in part.contrasts}
        ends = []
        for place, name in enumerate(order):
            apart, each = part.difference(name), signs[name]
            colour = NEUTRAL
            if each.significant:
                colour = "#0068a3" if each.difference > 0 else "#b84a00"
            ax.plot([apart.low, apart.high], [place, place], color=colour, linewidth=1.4)
            ax.plot([apart.value], [place], "o", color=colour, markersize=4,
                    markerfacecolor=colour if each.significant else "white")  # fmt: skip
            ends += [apart.low, apart.high]
        low, high = np.quantile([end for end in ends if end is not None], [0.04, 0.96])
        pad = (high - low) * 0.08
        left, right = min(low, 0) - pad, max(high, 0) + pad
        ax.set_xlim(left, right)
        for place, name in enumerate(order):  # what lies outside is pointed at
            value = part.difference(name).value
            if value is not None and not left <= value <= right:
                edge, mark = (left, "<") if value < left else (right, ">")
                colour = "#b84a00" if signs[name].significant else NEUTRAL
                ax.plot([edge], [place], mark, color=colour, markersize=6, clip_on=False)
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set_yticks(range(len(order)), order, fontsize=8)
        ax.set_title(f"{part.name}, {plural(part.seeds, 'seed')}", fontsize=10)
        ax.set_xlabel("gain over equal weights, points", fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color="#e2e6e9", linewidth=0.6)
        ax.set_axisbelow(True)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Read the runs, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    every = {run: found(run) for run in given.runs}
    parts = [part for part in every.values() if part is not None]
    absent = [run.name for run, part in every.items() if part is None]
    if not parts:
        sys.exit("no run has a complete seed")
    lines = missing(parts, absent)
    picture(parts, given.page.with_suffix(".png"))
    lines += [f"![Gain of each balancer over equal weights]({given.page.stem}.png)", ""]
    lines += overall(parts)
    for part in parts:
        lines += section(part)
    rewrite(given.page, Path(__file__).name, lines)


if __name__ == "__main__":
    main()
