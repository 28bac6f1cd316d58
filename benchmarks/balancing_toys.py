"""Two tasks in two dimensions: where each way of balancing ends up, with a picture.

The landscape is that of CAGrad's paper (Liu et al., 2021): a long valley, on whose floor plain sums
get stuck, and beyond it a line of best compromises (the Pareto front). The same landscape with the
first loss scaled by 0.1 is the setting of Nash-MTL's paper (Navon et al., 2022).

    python benchmarks/balancing_toys.py --out docs/toys.png [--quick]
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch

from plait.balancing.base import Balancer, Signals
from plait.method import resolve

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
METHODS = {
    "equal": "equal",
    "mgda": "mgda",
    "pcgrad": "pcgrad",
    "cagrad": {"cagrad": {"c": 0.5, "rescale": 2}},
    "nash_mtl": "nash_mtl",
    "imtl_g": "imtl_g",
    "aligned_mtl": "aligned_mtl",
}


def landscape(x: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two losses [2] at a point [2], and their gradients [2, 2]."""
    a, b = x
    t, half = np.tanh(-b), np.tanh(b * 0.5)
    up, down = max(half, 0.0), max(-half, 0.0)
    slope = 0.5 * (1 - half**2)
    losses, rows = np.zeros(2), np.zeros((2, 2))
    for i, (inner, by_b) in enumerate(
        ((0.5 * (-a - 7) - t, 1 - t**2), (0.5 * (-a + 3) + t + 2, -(1 - t**2)))
    ):
        side = 7 if i == 0 else -7
        size = max(abs(inner), 5e-6)
        valley = np.log(size) + 6
        flat = abs(inner) <= 5e-6
        valley_a = 0.0 if flat else -0.5 / inner
        valley_b = 0.0 if flat else by_b / inner
        bowl = ((-a + side) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
        bowl_a, bowl_b = -2 * (-a + side) / 10, -0.2 * (-b - 8) / 10
        losses[i] = valley * up + bowl * down
        rows[i, 0] = valley_a * up + bowl_a * down
        rows[i, 1] = valley_b * up + bowl_b * down + (valley * slope if b > 0 else -bowl * slope)
    weight = np.array([scale, 1.0])
    return losses * weight, rows * weight[:, None]


def walk(
    spelling: object, start: tuple[float, float], steps: int, scale: float = 1.0
) -> np.ndarray:
    """Adam at 0.001 from a start: every hundredth point [n, 2], the last one too."""
    balancer: Balancer = resolve("balancing", spelling)
    names = ("one", "two")
    balancer.bind(names)
    ones = torch.ones(2, dtype=torch.float64)
    x, mean, square, path = np.array(start), np.zeros(2), np.zeros(2), []
    for step in range(steps):
        losses, rows = landscape(x, scale)
        gram = torch.from_numpy(rows @ rows.T)
        s = Signals(
            tasks=names, losses=torch.from_numpy(losses), counts=ones, preferences=ones,
            gaussian=ones > 2, step=step, gram=gram,
        )  # fmt: skip
        update = balancer(s).numpy() @ rows
        balancer.advance(s)
        mean = 0.9 * mean + 0.1 * update
        square = 0.999 * square + 0.001 * update**2
        scaled = mean / (1 - 0.9 ** (step + 1))
        x = x - 1e-3 * scaled / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8)
        if step % 100 == 0:
            path.append(x)
    return np.array([*path, x])


def _job(job: tuple[str, tuple[float, float], int, float]) -> np.ndarray:
    torch.set_num_threads(1)
    name, start, steps, scale = job
    return walk(METHODS[name], start, steps, scale)


def picture(paths: dict[tuple[str, tuple[float, float]], np.ndarray], out: Path) -> None:
    """One panel a method: contours of the mean loss, the three walks, and where they end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    grid = np.linspace(-10, 10, 160)
    mean = np.array([[landscape(np.array([a, b]))[0].mean() for a in grid] for b in grid])
    figure, panels = plt.subplots(
        1, len(METHODS), figsize=(2.6 * len(METHODS), 3.0), sharey=True, layout="constrained"
    )
    for panel, name in zip(panels, METHODS, strict=True):
        panel.contour(grid, grid, mean, levels=24, cmap="Greys_r", linewidths=0.5)
        for start in STARTS:
            path = paths[name, start]
            panel.plot(*path.T, lw=1.6)
            panel.plot(*path[0], "o", ms=4, color="black")
            panel.plot(*path[-1], "*", ms=10, color="crimson", zorder=5)
        panel.set(title=name, xlim=(-10, 10), ylim=(-10, 10), xticks=[-8, 0, 8], yticks=[-8, 0, 8])
        panel.set_aspect("equal")
    figure.savefig(out, dpi=110)


def main() -> None:
    """Print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/toys.png"))
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    given = parser.parse_args()
    long, short = (10_000, 3_500) if given.quick else (100_000, 35_000)
    first = [(name, start, long, 1.0) for name, start in product(METHODS, STARTS)]
    second = [(name, STARTS[2], short, 0.1) for name in METHODS]
    with ProcessPoolExecutor(2) as pool:
        ends = list(pool.map(_job, [*first, *second]))
    paths = {(n, start): path for (n, start, _, _), path in zip(first, ends, strict=False)}
    print(f"mean loss after {long:,} steps, from each of three starts")
    for name in METHODS:
        reached = [landscape(paths[name, start][-1])[0].mean() for start in STARTS]
        print(f"  {name:12s}" + "".join(f"{value:9.2f}" for value in reached))
    print(f"first loss times 0.1, from {STARTS[2]}, after {short:,} steps: the two losses")
    for (name, *_), path in zip(second, ends[len(first) :], strict=True):
        one, two = landscape(path[-1], 0.1)[0]
        print(f"  {name:12s}{one:9.2f}{two:9.2f}")
    picture(paths, given.out)
    print(f"picture: {given.out}")


if __name__ == "__main__":
    main()
