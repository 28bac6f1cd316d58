from __future__ import annotations

import math

import pytest
import torch
from stepping import ground_of, stepped, values_of
from torch.func import functional_call
from training_toys import Deck, furthest, make_network

from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.networks import build_network
from plait.sharing.mmoe import Mmoe
from plait.testing.toys import toy_inputs
from plait.training.measuring import Layout, total
from plait.training.procedures.plain import Plain
from plait.training.procedures.rep_mtl import RepMtl, alignment, entropy


def by_hand(saliency: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations 3 to 10 for [B, T, C], one row and one task after another, in full matrices."""
    rows = [b for b in range(len(saliency)) if saliency[b].any()]
    spread, contrast = torch.zeros(()).double(), torch.zeros(()).double()
    anchors = {}
    for b in rows:
        matrix = saliency[b].T  # [C, T]
        anchors[b] = torch.nn.functional.normalize((matrix @ matrix.T).flatten(), dim=0)
        mean = saliency[b].mean(1).abs()
        share = mean / mean.sum()
        spread = spread - sum(p * p.log() for p in share if p > 0)
    for b in rows:
        below = sum(torch.exp(anchors[b] @ anchors[k] / temperature) for k in rows if k != b)
        active = [s for s in saliency[b] if s.any()]
        for s in active:
            z = torch.nn.functional.normalize(torch.outer(s, s).flatten(), dim=0)
            ratio = torch.exp(anchors[b] @ z / temperature) / below
            contrast = contrast - ratio.log() / len(active)
    return spread, contrast


@pytest.mark.parametrize(("rows", "tasks_", "width"), [(4, 3, 2), (3, 2, 9)])
def test_the_terms_are_those_of_the_equations(rows, tasks_, width):
    saliency = torch.randn(rows, tasks_, width, dtype=torch.float64)
    saliency[1, 0] = 0  # a label is missing
    saliency = torch.cat([saliency, torch.zeros(1, tasks_, width).double()])  # a row without any
    spread, contrast = by_hand(saliency, 0.5)
    assert float(entropy(saliency)) == pytest.approx(float(spread), rel=1e-12)
    assert float(alignment(saliency, 0.5)) == pytest.approx(float(contrast), rel=1e-12)
    scaled = saliency * 1e-4
    assert float(entropy(scaled)) == pytest.approx(float(spread), rel=1e-12)
    assert float(alignment(scaled, 0.5)) == pytest.approx(float(contrast), rel=1e-10)


def test_one_task_at_each_site_has_no_entropy_and_equal_ones_log_t():
    one = torch.zeros(5, 3, 4)
    one[:, 1] = 1.0
    assert float(entropy(one)) == 0.0
    assert float(entropy(torch.ones(5, 3, 4))) == pytest.approx(5 * math.log(3), rel=1e-6)
    alone = torch.randn(1, 3, 4)
    assert float(alignment(alone, 0.5)) == 0.0  # a row alone has no negatives


def test_gradients_of_gradients_are_those_of_finite_differences(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = RepMtl(regulation=0.7, alignment=0.4)
    values = values_of(network)
    units = Layout(network.tasks).units(batch)
    count = len(torch.unique(torch.cat([labels.rows for labels in batch.labels.values()])))

    def value(given):
        outputs = functional_call(network, given, (batch.parts, batch.labels))
        losses = total(batch, outputs, units).value
        features = next(iter(outputs.features.values())).values
        found = [torch.autograd.grad(x, features, retain_graph=True)[0] for x in losses]
        spread, contrast = by_hand(torch.stack(found, 1), 0.5)
        return float((losses.sum() + (0.7 * spread + 0.4 * contrast) / count).detach())

    _, found = stepped(ground_of(network, method), method, batch)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in values.items():
        push = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 1e-5
        rise = value({**values, name: tensor + push}) - value({**values, name: tensor - push})
        wanted = float((found[name] * push).sum()) * 2
        assert rise == pytest.approx(wanted, rel=2e-4, abs=1e-10), name


@pytest.mark.parametrize("make", [Uncertainty, PCGrad])
def test_without_the_terms_it_is_the_plain_step(tasks, make):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = RepMtl(regulation=0, alignment=0)
    _, none = stepped(ground_of(network, method), method, batch, make())
    _, plain = stepped(ground_of(network, Plain()), Plain(), batch, make())
    assert furthest(plain, none) < 1e-14


def test_a_row_without_labels_is_as_if_removed(tasks):
    network = make_network(tasks)
    batch = Deck(tasks, rows=40).batch(0).only({"real.1", "binary.0"})
    rows = torch.unique(torch.cat([batch.task(n).rows for n in batch.present]))
    assert len(rows) < 40
    method = RepMtl()
    _, one = stepped(ground_of(network, method), method, batch)
    _, two = stepped(ground_of(network, method), method, batch.rows(rows))
    assert furthest(one, two) < 1e-13


def test_the_regulation_is_exact_over_micro_batches(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = RepMtl(alignment=0)
    _, whole = stepped(ground_of(network, method), method, batch)
    _, cut = stepped(ground_of(network, method, pieces=4), method, batch)
    assert furthest(whole, cut) < 1e-13


def test_features_of_their_own_are_refused(tasks):
    network = build_network(
        inputs=toy_inputs(), tasks=tasks, encoder={"trunk": {"mlp": {"width": 4}}},
        sharing=Mmoe(), seed=0,
    ).double()  # fmt: skip
    with pytest.raises(ValueError, match="one representation that all tasks read"):
        stepped(ground_of(network, RepMtl()), RepMtl(), Deck(tasks).batch(0))
