from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, network, size, some_tasks

from plait.batch import Batch, Labels
from plait.networks import build_network, build_side_by_side
from plait.sharing import Dsmtl, Hard
from plait.sharing.base import gumbel
from plait.task import Task, TaskSet
from plait.testing.toys import toy_inputs

MLP = {"trunk": {"mlp": {"width": 6, "depth": 2}}}
GATES = ("softmax", "sigmoid", "hard")


def made(count, gate, seed=0):
    net = network(Dsmtl(gate=gate), some_tasks(count), encoder=MLP, seed=seed)
    with torch.no_grad():
        alpha = net.trunk.gates.alpha
        alpha.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(3)))
    return net


def encoded(encoder, x, t=None):
    """One row by an encoder, or by the t-th of a stack of them."""
    for layer in encoder.trunk.layers:
        if isinstance(layer, torch.nn.Linear):
            weight, bias = layer.weight, layer.bias
            if t is not None:
                weight, bias = weight[t], bias[t]
            x = torch.relu(weight @ x + bias)
    return x


def assert_mixed(net, batch, share):
    """Features are α₁ f_s + α₂ f_t, with ``share(t)`` α of the t-th task."""
    rows = batch.parts["table"]["numeric"]

    def mixed(task, row):
        t, x = net.tasks.position[task], rows[row]
        first, second = share(t)
        private = encoded(net.trunk.private.bank.encoder, x, t)
        return first * encoded(net.trunk.public, x) + second * private

    assert_features(net, batch, mixed)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("gate", GATES)
def test_features_are_the_papers(gate, count):
    net, batch = made(count, gate).eval(), batch_for(some_tasks(count), missing=0.4, rows=2)

    def share(t):
        a = net.trunk.gates.alpha[t]
        if gate == "softmax":
            return a.exp() / a.exp().sum()
        if gate == "sigmoid":
            return 1 / (1 + (-a).exp())
        return (0.0, 1.0) if 1 / (1 + (-a).exp()) >= 0.5 else (1.0, 0.0)

    assert_mixed(net, batch, share)


def test_the_hard_gate_chooses_anew_in_each_step_of_training():
    net, batch = made(3, "hard").train(), batch_for(some_tasks(3))
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        base = int(torch.randint(2**62, ()))
        sigma = net.trunk.gates.alpha.detach().sigmoid()
        logits = torch.cat([(1 - sigma).log(), sigma.log()], 1)
        taken = (logits + gumbel(logits, net.tasks.names, base)).argmax(1).tolist()
        seen.add(tuple(taken))
        torch.manual_seed(seed)
        assert_mixed(net, batch, lambda t, taken=taken: ((1.0, 0.0), (0.0, 1.0))[taken[t]])
    assert len(seen) > 1


def test_what_the_hard_gate_has_not_chosen_still_trains_the_gate():
    net, batch = made(2, "hard").train(), batch_for(some_tasks(2), missing=0.0)
    sum(raw.sum() for raw in net(batch.parts, batch.labels).raw.values()).backward()
    assert net.trunk.gates.alpha.grad.abs().min() > 0


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_private_only_is_the_separate_network_bit_for_bit(missing):
    tasks = some_tasks(4)
    batch = batch_for(tasks, missing=missing)
    net = network(Dsmtl(), tasks, encoder=MLP, seed=5)
    separate = build_side_by_side(inputs=toy_inputs(), tasks=tasks, encoder=MLP, seed=5).double()
    with torch.no_grad():
        net.trunk.gates.alpha.copy_(torch.tensor([-1e4, 1e4]))
    one, two = (n(batch.parts, batch.labels).raw for n in (net, separate))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_gates_start_even():
    for gate, start in (("softmax", 0.5), ("sigmoid", 0.5), ("hard", 0.0)):
        alpha = network(Dsmtl(gate=gate), some_tasks(3)).trunk.gates.alpha
        assert bool((alpha == start).all())


def test_rows_of_several_parts_find_their_features():
    tasks = some_tasks(3)
    net, batch = made(3, "softmax"), batch_for(tasks, missing=0.2, rows=7)
    numeric = batch.parts["table"]["numeric"]
    parts = {"one": {"numeric": numeric[:3]}, "two": {"numeric": numeric[3:]}}
    whole, cut = (net(found, batch.labels).raw for found in (batch.parts, parts))
    for key in whole:
        torch.testing.assert_close(whole[key], cut[key])


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count, gate):
    encoder = 5 * 6 + 7 * 6
    gates = count * (1 if gate == "hard" else 2)
    assert size(network(Dsmtl(gate=gate), some_tasks(count), encoder=MLP)) == (
        (count + 1) * encoder + gates
    )


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="gate must be softmax, sigmoid or hard"):
        Dsmtl(gate="v1")


def test_an_encoder_that_cannot_be_stacked_is_refused():
    encoder = {"numeric": {"module": "torch.nn:Identity"}}
    with pytest.raises(ValueError, match="cannot run side by side"):
        network(Dsmtl(), some_tasks(2), encoder=encoder)


def unrelated(rows, seed):
    """Four tasks on the same inputs that have nothing in common."""
    tasks = TaskSet(Task(name=f"t{i}", kind="real") for i in range(4))
    truth, draw = (torch.Generator().manual_seed(each) for each in (1, seed))
    x, targets = torch.randn(rows, 8, generator=draw), []
    for _ in tasks.names:
        h = torch.relu(x @ torch.randn(8, 6, generator=truth))
        signal = h @ torch.randn(6, generator=truth)
        noise = 0.3 * torch.randn(rows, generator=draw)
        targets.append((signal - signal.mean()) / signal.std() + noise)
    every = torch.arange(rows)
    place = torch.arange(4).repeat_interleave(rows)
    labels = Labels(place, every.repeat(4), torch.cat(targets))
    return Batch(parts={"table": {"numeric": x}}, labels={"real": labels}, tasks=tasks, ids=every)


def errors(net, batch):
    gaps = net(batch.parts, batch.labels).raw["real"][:, 0] - batch.labels["real"].target
    return gaps.square().view(4, -1).mean(1)


def trained_errors(sharing, seed):
    """The tasks' errors on new rows after training; of separate networks without ``sharing``."""
    batch = unrelated(200, seed)
    made_of = {
        "inputs": toy_inputs(8),
        "tasks": batch.tasks,
        "encoder": {"trunk": {"mlp": {"width": 4, "depth": 1}}},
        "seed": seed,
    }
    net = (
        build_side_by_side(**made_of)
        if sharing is None
        else build_network(sharing=sharing, **made_of)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    torch.manual_seed(seed)
    for _ in range(300):
        optimizer.zero_grad()
        errors(net, batch).sum().backward()
        optimizer.step()
    return errors(net.eval(), unrelated(2000, 99)).detach()


@pytest.mark.slow
def test_no_unrelated_task_is_worse_than_alone_beyond_noise():
    seeds = range(5)
    alone = torch.stack([trained_errors(None, seed) for seed in seeds])

    def harm(sharing):
        """By task, in standard errors over the seeds, and on average."""
        gap = torch.stack([trained_errors(sharing, seed) for seed in seeds]) - alone
        return gap.mean(0) / (gap.std(0) / len(seeds) ** 0.5), gap.mean()

    assert bool((harm(Hard())[0] > 2).any())  # sharing one encoder of this width does harm
    for gate in GATES:
        by_task, mean = harm(Dsmtl(gate=gate))
        assert bool((by_task < 2).all()), f"{gate}: {by_task}"
        assert float(mean) < 0.01, f"{gate}: {mean}"
