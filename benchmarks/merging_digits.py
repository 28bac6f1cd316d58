"""Eight transformed digit tasks: which orderings of merging methods hold at small scale.

The scikit-learn digits, seen in eight ways (turned, mirrored, inverted, scrambled), are eight tasks
of ten classes. A network with a head for each is trained on all of them for a short while; then the
heads are frozen and the trunk is tuned on each task alone: eight experts with a common start, which
every method merges. Free coefficients are chosen on the validation rows, never on the test rows.
Methods that keep something for every task are served with it.

    python benchmarks/merging_digits.py [--seeds 12] [--out docs/merging-digits.png]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.merging.base import Have
from plait.merging.pool import Pool
from plait.method import resolve

State = Mapping[str, np.ndarray]
WIDTH, CLASSES = 512, 10
SHORT, LONG = 20, 150  # steps on all tasks together, and on each alone
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)  # of TALL masks, one for every task
METHODS: Mapping[str, Any] = {
    "EMR": "emr",
    "TSV-M": "tsv",
    "Iso-C": {"iso": {"common": 1.0}},
    "consensus": "consensus",
    "TIES": "ties",
    "DARE": {"dare": {"drop": 0.5, "method": "task_arithmetic"}},
    "PCB": "pcb",
    "task arithmetic": "task_arithmetic",
    "task arithmetic, λ = 0.3": {"task_arithmetic": {"scale": 0.3}},
    "average": "average",
}
OWN = ("TALL masks", "EMR")  # keep something for every task
ORDERINGS = (
    ("individual", "TALL masks"),
    ("TALL masks", "EMR"),
    ("EMR", "the best static merge"),
    ("TSV-M", "task arithmetic"),
    ("Iso-C", "task arithmetic"),
    ("task arithmetic", "task arithmetic, λ = 0.3"),
    ("task arithmetic", "average"),
    ("TIES", "task arithmetic"),
)


def views() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The eight tasks: what each does to images [n, 8, 8]."""
    scrambled = np.random.default_rng(0).permutation(64)
    return {
        "upright": lambda x: x,
        "quarter": lambda x: np.rot90(x, 1, (1, 2)),
        "half": lambda x: np.rot90(x, 2, (1, 2)),
        "three quarters": lambda x: np.rot90(x, 3, (1, 2)),
        "mirrored": lambda x: x[:, :, ::-1],
        "transposed": lambda x: x.transpose(0, 2, 1),
        "inverted": lambda x: 1 - x,
        "scrambled": lambda x: x.reshape(-1, 64)[:, scrambled].reshape(-1, 8, 8),
    }


class Rows:
    """Rows of all tasks: inputs [T, n, 64] and the classes [n] by part."""

    def __init__(self, seed: int) -> None:
        told = load_digits()
        images, self.target = told.images / 16.0, torch.from_numpy(told.target)
        seen = [view(images).reshape(-1, 64) for view in views().values()]
        self.inputs = torch.from_numpy(np.stack(seen).astype(np.float32))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        first, second = int(0.6 * len(order)), int(0.8 * len(order))
        self.parts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}

    def of(self, part: str, task: int) -> tuple[Tensor, Tensor]:
        """Inputs and classes of a task."""
        rows = self.parts[part]
        return self.inputs[task, rows], self.target[rows]


def trunk() -> nn.Sequential:
    """[n, 64] → [n, width]."""
    layers = (nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    return nn.Sequential(*layers)


def train(
    net: nn.Module, heads: Tensor, tasks: list[int], rows: Rows, steps: int, *, head: bool
) -> None:
    """Tune a trunk, and the heads [T, width, classes] where asked, on some of the tasks."""
    values = [*net.parameters(), *([heads] if head else [])]
    optimizer = torch.optim.Adam(values, lr=2e-3 if head else 1e-3)
    parts = [rows.of("train", task) for task in tasks]
    for _ in range(steps):
        loss = torch.zeros(())
        for task, (x, y) in zip(tasks, parts, strict=True):
            batch = torch.randint(len(y), (64,))
            loss = loss + F.cross_entropy(net(x[batch]) @ heads[task], y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(state: State, heads: Tensor, task: int, rows: Rows, part: str) -> float:
    """The share of rows that a trunk's state gets right on a task."""
    x, y = rows.of(part, task)
    tensors = [torch.from_numpy(np.asarray(value)) for value in state.values()]
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        x = torch.relu(F.linear(x, weight, bias))
    return float((x @ heads[task]).argmax(1).eq(y).float().mean())


def plain(net: nn.Module) -> dict[str, np.ndarray]:
    """A trunk's state as arrays."""
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}


def one(seed: int) -> dict[str, float]:
    """Mean test accuracy over the tasks by method, in per cent."""
    torch.manual_seed(seed)
    rows, tasks = Rows(seed), list(range(len(views())))
    net = trunk()
    heads = torch.randn(len(tasks), WIDTH, CLASSES).div_(WIDTH**0.5).requires_grad_()
    train(net, heads, tasks, rows, SHORT, head=True)
    heads = heads.detach()
    base, experts = plain(net), {}
    for task in tasks:
        own = trunk()
        own.load_state_dict(net.state_dict())
        train(own, heads, [task], rows, LONG, head=False)
        experts[f"task{task}"] = plain(own)
    pool = Pool(experts, base)

    def scored(states: Callable[[int], State], part: str) -> float:
        return 100 * float(np.mean([accuracy(states(t), heads, t, rows, part) for t in tasks]))

    have = Have(validation=lambda state: -scored(lambda _: state, "valid"))
    found = {
        "individual": scored(lambda task: experts[f"task{task}"], "test"),
        "start": scored(lambda _: base, "test"),
    }
    masked = [resolve("merging", {"tall_masks": {"threshold": t}}).merge(pool) for t in THRESHOLDS]

    def chosen(task: int) -> State:
        own = [merged.tasks[f"task{task}"] for merged in masked]
        return max(own, key=lambda state: accuracy(state, heads, task, rows, "valid"))

    found["TALL masks"] = scored(chosen, "test")
    for name, method in METHODS.items():
        merged = resolve("merging", method).merge(pool, have)
        if name in OWN:
            found[name] = scored(lambda task: merged.tasks[f"task{task}"], "test")  # noqa: B023
        else:
            found[name] = scored(lambda _: merged.tensors, "test")  # noqa: B023
    return found


def picture(scores: Mapping[str, np.ndarray], out: Path) -> None:
    """Every method's accuracy, a point for each seed and a bar at the mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    order = sorted(scores, key=lambda name: scores[name].mean())
    figure, ax = plt.subplots(figsize=(6.4, 0.3 * len(order) + 1), dpi=110)
    for place, name in enumerate(order):
        values = scores[name]
        colour = (
            "#b84a00"
            if name in OWN
            else "#6b7780"
            if name in ("individual", "start")
            else "#0068a3"
        )
        ax.plot(values, np.full(len(values), place), "o", color=colour, markersize=3, alpha=0.4)
        ax.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=2)
    ax.set_yticks(range(len(order)), order, fontsize=8)
    ax.set_xlabel("mean test accuracy over eight tasks, %", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="#e2e6e9", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Software": None})


def main() -> None:
    """Print the table and the orderings, and draw the picture."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=12)
    asked.add_argument("--out", type=Path, default=Path("docs/merging-digits.png"))
    given = asked.parse_args()
    torch.set_num_threads(1)
    rows = [one(seed) for seed in range(given.seeds)]
    scores = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    print(f"{given.seeds} seeds; load {os.getloadavg()[0]:.1f}\n")
    print("| method | accuracy, % | ± over seeds | per cent of individual |\n|---|---|---|---|")
    for name in sorted(scores, key=lambda name: -scores[name].mean()):
        share = 100 * scores[name] / scores["individual"]
        spread = scores[name].std(ddof=1) if given.seeds > 1 else 0.0
        print(f"| {name} | {scores[name].mean():.1f} | {spread:.1f} | {share.mean():.1f} |")
    static = [name for name in METHODS if name not in OWN]
    scores["the best static merge"] = np.max([scores[name] for name in static], axis=0)
    print("\n| ordering | seeds |\n|---|---|")
    for better, worse in ORDERINGS:
        wins = int((scores[better] > scores[worse]).sum())
        print(f"| {better} > {worse} | {wins} of {given.seeds} |")
    del scores["the best static merge"]
    picture(scores, given.out)
    print(f"\npicture: {given.out}")


if __name__ == "__main__":
    main()
