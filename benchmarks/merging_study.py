"""The page of the merging studies, from their run folders.

    python benchmarks/merging_study.py runs/merging_images runs/merging_text

Rewrites what stands between the marks in docs/merging-study.md, and docs/merging-study.png: how
much of the separate experts' accuracy each way keeps, and what it has to see for that.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from study_page import plural, rewrite, table

from plait.comparing.gathering import cost_of, ranking
from plait.comparing.ranking import Ranking
from plait.comparing.results import Interval, TaskScore
from plait.comparing.strategies.merge import Merge
from plait.comparing.strategy import Strategy
from plait.comparing.study import Study
from plait.method import Need, resolve

PAGE = Path(__file__).resolve().parent.parent / "docs" / "merging-study.md"
SEEN = {
    "labels": "#b84a00",
    "inputs without labels": "#0068a3",
    "weights": "#3d7a33",
    "all rows, trained": "#59636d",
}
MARKS = {"labels": "s", "inputs without labels": "D", "weights": "o", "all rows, trained": "^"}


@dataclass(frozen=True)
class Found:
    """One data set: its study, its figures, each way's own processor time and parameters."""

    study: Study
    figures: Ranking
    own: Mapping[str, float]
    size: Mapping[str, float | None]

    @property
    def name(self) -> str:
        return self.study.title.removeprefix("Merging, ")

    @property
    def ways(self) -> list[str]:
        """What is not a plain baseline and has all its figures, best first."""
        names = [
            name
            for name, one in self.study.strategies.items()
            if not one.baseline and name in self.figures.gain and self.kept(name).value is not None
        ]
        return sorted(names, key=lambda name: -(self.kept(name).value or 0.0))

    def kept(self, name: str) -> Interval:
        """Normalised accuracy: the mean over tasks of the share of the experts' own, per cent."""
        gain = self.figures.gain[name]
        if gain.value is None or gain.low is None or gain.high is None:
            return gain
        return Interval(100 + gain.value, 100 + gain.low, 100 + gain.high)


def sees(strategy: Strategy) -> str:
    """What a way looks at beyond the experts' weights."""
    if not isinstance(strategy, Merge):
        return "all rows, trained"
    needs = resolve("merging", strategy.method).needs()
    if Need.LABELLED in needs:
        return "labels"
    return "inputs without labels" if Need.UNLABELLED in needs else "weights"


def found(folder: Path) -> Found:
    """What a run says."""
    study = Study.open(folder)
    cells = {place: cell for place, cell in study.cells().items() if study.store.finished(cell.key)}
    if not cells:
        raise SystemExit(f"{folder}: no cell is finished")
    own = {}
    for label in study.strategies:
        costs = [study.store.read(c.key, "cost.json") for p, c in cells.items() if p.label == label]
        own[label] = sum(cost["processor"] for cost in costs) / max(len(costs), 1)
    size = {label: cost_of(study, label, cells).parameters for label in study.strategies}
    return Found(study, ranking(study, cells, "test"), own, size)


def per_cent(value: float | None) -> str:
    """``97.3``."""
    return "–" if value is None else f"{value:.1f}"


def section(part: Found) -> list[str]:
    """One data set: overall, then by task."""
    tasks, whole = part.figures.tasks, part.size["joint"]
    seeds = max(part.figures.seeds.values())
    lines = [f"## {part.name}", "", f"{len(tasks)} tasks, {plural(seeds, 'seed')}.", ""]
    rows, shares = [], []
    for name in part.ways:
        kept, scores = part.kept(name), part.figures.of(name)
        told, size = per_cent(kept.value), part.size[name]
        if name != "separate":
            told += f" [{per_cent(kept.low)}, {per_cent(kept.high)}]"
        rows.append([
            name, told, str(sum(score.harmed for score in scores.values())),
            f"{size / whole:.2f}" if size and whole else "–", f"{part.own[name]:.1f}",
            sees(part.study.strategies[name]),
        ])  # fmt: skip
        shares.append([name, *(share(scores[task]) for task in tasks), ""])
    head = ["way", "normalised accuracy, %", "tasks harmed", "size", "processor s", "looks at"]
    lines += [*table(head, rows), "", "By task:", "", *table(["way", *tasks, ""], shares), ""]
    return lines


def share(score: TaskScore) -> str:
    """A task's normalised accuracy, marked where the loss is beyond noise."""
    if score.gain.value is None:
        return "–"
    return per_cent(100 + score.gain.value) + (" ▼" if score.harmed else "")


def picture(parts: Sequence[Found], path: Path) -> None:
    """Normalised accuracy with its interval, coloured by what a way looks at."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = max(len(part.ways) for part in parts)
    figure, axes = plt.subplots(
        1, len(parts), figsize=(5.2 * len(parts), 0.27 * rows + 1.6), squeeze=False, dpi=110
    )
    for ax, part in zip(axes[0], parts, strict=True):
        order = part.ways[::-1]
        for place, name in enumerate(order):
            kept, seen = part.kept(name), sees(part.study.strategies[name])
            ax.plot([kept.low, kept.high], [place, place], color=SEEN[seen], linewidth=1.6)
            ax.plot([kept.value], [place], MARKS[seen], color=SEEN[seen], markersize=6)
        ax.axvline(100, color="#59636d", linewidth=0.8)
        ax.set_yticks(range(len(order)), order, fontsize=9)
        ax.set_xlabel("share of the separate experts' accuracy, %", fontsize=9)
        ax.set_title(part.name, fontsize=11)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color="#e2e6e9", linewidth=0.6)
        ax.set_axisbelow(True)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
    handles = [
        plt.Line2D([], [], color=colour, marker=MARKS[seen], linewidth=1.6, label=seen)
        for seen, colour in SEEN.items()
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=2 * len(parts), frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, metadata={"Software": None})


def summary(part: Found) -> str:
    """The best way of each kind, in one sentence."""
    told = []
    for seen in SEEN:
        ways = [n for n in part.ways if sees(part.study.strategies[n]) == seen and n != "separate"]
        if ways:
            kept = part.kept(ways[0])
            told.append(f"{seen}: `{ways[0]}` ({per_cent(kept.value)} %)")
    return f"{part.name}: the best that looks at " + "; ".join(told) + "."


def main() -> None:
    """Read the runs, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    parts = [found(run) for run in given.runs]
    picture(parts, given.page.with_suffix(".png"))
    lines = [f"![Accuracy kept, and what is looked at for it]({given.page.stem}.png)", ""]
    for part in parts:
        lines += [summary(part), ""]
    for part in parts:
        lines += section(part)
    rewrite(given.page, Path(__file__).name, lines)


if __name__ == "__main__":
    main()
