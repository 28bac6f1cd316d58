"""Two tasks in two dimensions: where each way of balancing ends up, with a picture.

The landscape is that of CAGrad's paper (Liu et al., 2021): a long valley, on whose floor plain sums
get stuck, and beyond it a line of best compromises (the Pareto front). The same landscape with the
first loss scaled by 0.1 is the setting of Nash-MTL's paper (Navon et al., 2022).

    python benchmarks/balancing_toys.py --out docs/toys.png [--quick]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
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


def losses_and_slopes(a: float, b: float) -> tuple[list[float], list[tuple[float, float]]]:
    """Two losses at a point, and their gradients."""
    t, half = math.tanh(-b), math.tanh(b * 0.5)
    up, down = max(half, 0.0), max(-half, 0.0)
    slope = 0.5 * (1 - half**2)
    losses, rows = [], []
    for inner, by_b, side in (
        (0.5 * (-a - 7) - t, 1 - t**2, 7),
        (0.5 * (-a + 3) + t + 2, t**2 - 1, -7),
    ):
        valley = math.log(max(abs(inner), 5e-6)) + 6
        flat = abs(inner) <= 5e-6
        valley_a, valley_b = (0.0, 0.0) if flat else (-0.5 / inner, by_b / inner)
        bowl = ((-a + side) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
        bowl_a, bowl_b = -2 * (-a + side) / 10, -0.2 * (-b - 8) / 10
        edge = valley * slope if b > 0 else -bowl * slope
        losses.append(valley * up + bowl * down)
        rows.append((valley_a * up + bowl_a * down, valley_b * up + bowl_b * down + edge))
    return losses, rows


def mean_loss(point: Sequence[float]) -> float:
    """The mean of the two losses at a point."""
    return sum(losses_and_slopes(*point)[0]) / 2


def walk(
    spelling: object, start: tuple[float, float], steps: int, scale: float = 1.0
) -> np.ndarray:
    """Adam at 0.001 from a start: every hundredth point [n, 2], the last one too.

    ``scale`` multiplies the first loss.
    """
    balancer: Balancer = resolve("balancing", spelling)
    names = ("one", "two")
    balancer.bind(names)
    ones = torch.ones(2, dtype=torch.float64)
    (x, y), path = start, [start]
    mean, square = [0.0, 0.0], [0.0, 0.0]
    for step in range(1, steps + 1):
        (first, second), ((p, q), (r, s)) = losses_and_slopes(x, y)
        first, p, q = first * scale, p * scale, q * scale
        gram = torch.tensor(
            [[p * p + q * q, p * r + q * s], [p * r + q * s, r * r + s * s]], dtype=torch.float64
        )
        seen = Signals(
            tasks=names, losses=torch.tensor([first, second]), counts=ones, preferences=ones,
            gaussian=ones > 2, step=step, gram=gram,
        )  # fmt: skip
        one, two = balancer(seen).tolist()
        moves = []
        for i, slope in enumerate((one * p + two * r, one * q + two * s)):
            mean[i] = 0.9 * mean[i] + 0.1 * slope
            square[i] = 0.999 * square[i] + 0.001 * slope**2
            size = math.sqrt(square[i] / (1 - 0.999**step)) + 1e-8
            moves.append(1e-3 * mean[i] / (1 - 0.9**step) / size)
        x, y = x - moves[0], y - moves[1]
        if step % 100 == 0:
            path.append((x, y))
    return np.array(path)


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
    mean = np.array([[mean_loss((a, b)) for a in grid] for b in grid])
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
        reached = [mean_loss(paths[name, start][-1]) for start in STARTS]
        print(f"  {name:12s}" + "".join(f"{value:9.2f}" for value in reached))
    print(f"first loss times 0.1, from {STARTS[2]}, after {short:,} steps: the two losses")
    for (name, *_), path in zip(second, ends[len(first) :], strict=True):
        one, two = losses_and_slopes(*path[-1])[0]
        print(f"  {name:12s}{0.1 * one:9.2f}{two:9.2f}")
    picture(paths, given.out)
    print(f"picture: {given.out}")


if __name__ == "__main__":
    main()
