from __future__ import annotations

import pytest
import torch
from stepping import ground_of, stepped
from torch import nn
from training_toys import Deck, furthest, make_network

from plait.balancing.graddrop import GradDrop
from plait.balancing.modo import MoDo
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.training import RowwiseAdamW, fit
from plait.training.measuring import losses_of
from plait.training.procedures.plain import Plain
from plait.training.procedures.sparse_training import SparseTraining, connections, strongest


def layer(network: nn.Module) -> nn.Parameter:
    return next(p for p in network.shared_parameters() if p.ndim == 2)


def test_every_neuron_keeps_its_largest_inputs():
    rows = torch.tensor([[0.1, -3.0, 2.0, 0.0], [-1.0, 0.5, 0.2, 0.9]])
    assert strongest(rows, 0.5).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert strongest(rows, 0.3).sum(1).tolist() == [2, 2]  # ⌈1.2⌉ of four
    assert strongest(torch.randn(3, 10), 0.3).sum(1).tolist() == [3, 3, 3]


def test_a_neuron_of_a_convolution_is_its_output_channel():
    plain, turned = nn.Conv2d(2, 5, 3), nn.ConvTranspose2d(2, 5, 3)
    assert connections(plain, plain.weight).shape == (5, 18)
    assert connections(turned, turned.weight).shape == (5, 18)
    embedding = nn.Embedding(7, 3)
    assert connections(embedding, embedding.weight) is None
    assert connections(plain, plain.bias) is None


@pytest.mark.parametrize("make", [Uncertainty, PCGrad, GradDrop])
def test_what_is_masked_keeps_its_value_bit_for_bit(tasks, make):
    network = make_network(tasks)
    start = layer(network).detach().clone()
    mask = strongest(start, 0.5)
    optimizer = RowwiseAdamW(network.parameters(), lr=0.05, weight_decay=0.1)
    fit(network, Deck(tasks), make(), optimizer, steps=7, procedure=SparseTraining(keep=0.5))
    now = layer(network).detach()
    assert torch.equal(now[~mask], start[~mask])
    assert (now[mask] != start[mask]).all()
    bias = next(p for p in network.shared_parameters() if p.ndim == 1)
    assert bias.any()  # it began at zero, or has moved


def test_a_balancer_sees_masked_gradients(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = SparseTraining(keep=0.5)
    mask = strongest(layer(network).detach(), 0.5)
    signals, found = stepped(ground_of(network, method), method, batch, PCGrad())
    whole, _ = stepped(ground_of(network, Plain()), Plain(), batch, PCGrad())
    shared = network.shared_parameters()
    rows = []
    for place in range(len(signals.tasks)):
        value = losses_of(network, batch)[0].value[place]
        parts = torch.autograd.grad(value, shared)
        rows.append(torch.cat([(g * mask if g.ndim == 2 else g).flatten() for g in parts]))
    jacobian = torch.stack(rows)
    torch.testing.assert_close(signals.gram, jacobian @ jacobian.T, rtol=1e-9, atol=1e-14)
    assert not torch.allclose(signals.gram, whole.gram)
    name = next(n for n, p in network.named_parameters() if p is layer(network))
    assert not found[name][~mask].any()


def test_all_connections_are_plain_training(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = SparseTraining(keep=1.0)
    for make in (Uncertainty, PCGrad, GradDrop):
        _, sparse = stepped(ground_of(network, method), method, batch, make())
        _, plain = stepped(ground_of(network, Plain()), Plain(), batch, make())
        assert furthest(plain, sparse) < 1e-14


def test_the_mask_is_that_of_the_start_also_when_taken_up_again(tasks, tmp_path):
    """A network that has moved meanwhile would have other largest weights."""

    def run(network, steps_before=None):
        def watch(problem, signals):
            if problem.step == steps_before:
                raise InterruptedError

        fit(
            network, Deck(tasks), steps=8, procedure=SparseTraining(keep=0.5),
            checkpoint=tmp_path, checkpoint_every=1, observers=[watch],
        )  # fmt: skip

    first = make_network(tasks)
    start = layer(first).detach().clone()
    with pytest.raises(InterruptedError):
        run(first, 4)
    again = make_network(tasks, seed=9)
    run(again)
    mask = strongest(start, 0.5)
    assert torch.equal(layer(again).detach()[~mask], start[~mask])


def test_bad_settings_and_balancers_are_refused(tasks):
    with pytest.raises(ValueError, match="keep must lie in"):
        SparseTraining(keep=0)
    with pytest.raises(ValueError, match="modo compares parts of a batch"):
        fit(make_network(tasks), Deck(tasks), MoDo(), steps=1, procedure=SparseTraining())
