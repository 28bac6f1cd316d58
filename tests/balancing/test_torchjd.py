"""Every method of the Gramian that torchjd has too: the same update to 1e-6.

Those that see losses, or the gradients themselves, are compared step for step in their own files.
torchjd's Nash-MTL stops at a residual of 1e-3, so that it can be no oracle; the bargaining equation
is one. Its CAGrad comes from a general convex solver, good to some 1e-4 in the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradients import bound, jacobian, sampled, signals
from torch import Tensor
from torchjd import aggregation as theirs
from torchjd._linalg import QuadprogProjector

from plait.method import resolve

EXACT = QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)
Rival = Callable[[int], Callable[[Tensor], Tensor]]
MANY, PAIRS = (2, 3, 5, 12), (2,)

# Ours, theirs for so many tasks, how much longer our update is, and the numbers of tasks. With two
# tasks there is no random order, and the Frank-Wolfe steps of MGDA end.
SAME: dict[str, tuple[Any, Rival, Callable[[int], float], tuple[int, ...]]] = {
    "equal": ("equal", lambda _: theirs.SumWeighting(), lambda _: 1, MANY),
    "aligned_mtl": ("aligned_mtl", lambda _: theirs.AlignedMTLWeighting(), lambda t: t, MANY),
    "cagrad": (
        {"cagrad": {"c": 0.4, "rescale": 0}},
        lambda _: theirs.CAGradWeighting(c=0.4, norm_eps=0.0),
        lambda _: 1,
        MANY,
    ),
    "dualproj": (
        "dualproj",
        lambda _: theirs.DualProjWeighting(projector=EXACT),
        lambda _: 1,
        MANY,
    ),
    "fairgrad": ("fairgrad", lambda _: theirs.FairGradWeighting(alpha=2.0), lambda _: 1, MANY),
    "gradvac": ("gradvac", lambda _: theirs.GradVacWeighting(beta=0.01), lambda _: 1, PAIRS),
    "imtl_g": ("imtl_g", lambda _: theirs.IMTLGWeighting(), lambda _: 1, MANY),
    "krum": (
        {
            "krum": {"outliers": 9, "keep": 2}
        },  # one neighbour each: the distance need not be squared
        lambda t: theirs.KrumWeighting(n_byzantine=t - 3, n_selected=2),
        lambda _: 1,
        (12,),
    ),
    "mgda": ("mgda", lambda _: theirs.MGDAWeighting(epsilon=1e-12), lambda _: 1, PAIRS),
    "pcgrad": ("pcgrad", lambda _: theirs.PCGradWeighting(), lambda _: 1, PAIRS),
    "upgrad": ("upgrad", lambda _: theirs.UPGradWeighting(projector=EXACT), lambda _: 1, MANY),
}


LOOSE = {"cagrad": 1e-3}


@pytest.mark.parametrize("name", SAME)
def test_the_update_is_torchjds(name: str):
    spelled, make, longer, counts = SAME[name]
    for tasks in counts:
        for seed in range(5):
            rows = jacobian(tasks, tasks + 3, seed)
            s = signals(rows)
            ours = bound(resolve("balancing", spelled), s)(s) @ rows
            wanted = longer(tasks) * make(tasks)(s.gram) @ rows
            assert (ours - wanted).norm() <= LOOSE.get(name, 1e-6) * wanted.norm()


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_weights_from_independent_parts_are_torchjds_over_a_run(name: str):
    ours = resolve("balancing", {"modo": "modo", "sdmgrad": {"sdmgrad": {"rate": 0.3}}}[name])
    rival = {"modo": theirs.MoDoWeighting(), "sdmgrad": theirs.SDMGradWeighting(lr=0.3)}[name]
    for step in range(6):
        parts = [jacobian(4, 9, 10 * step + k) + 1 for k in range(ours.samples)]
        s = sampled(parts, step=step)
        weights = bound(ours, s)(s).sum(0)
        ours.advance(s)
        wanted = rival(parts[0] @ parts[1].T)
        torch.testing.assert_close(weights, wanted, rtol=1e-6, atol=1e-6)


def test_smoothed_weights_are_torchjds():
    ours = resolve("balancing", {"cr_mogm": {"balancer": "imtl_g", "smoothing": 0.7}})
    rival: Any = None
    for step in range(5):
        s = signals(jacobian(4, 7, step), step=step)
        weights = bound(ours, s)(s)
        ours.advance(s)
        start = theirs.IMTLGWeighting()(s.gram)
        rival = rival or theirs.CRMOGMWeighting(theirs.IMTLGWeighting(), 0.7, start)
        torch.testing.assert_close(weights, rival(s.gram), rtol=1e-6, atol=1e-6)
