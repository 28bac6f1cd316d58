from __future__ import annotations

import pytest
import torch
from on_tokens import batch, by_task, many, moved, network, parts_of, watched

from plait.sharing import Hard, Meo
from plait.testing import Subject
from plait.testing.networks import any_subset_can_be_asked, row_order_is_free, rows_are_separable


def softmax(x):
    shares = torch.exp(x - x.max())
    return shares / shares.sum()


def mixture(merged, x, gates):
    """What a mixture of the copies gives for tokens [L, i], their outputs weighed by gates."""
    found = sum(g * (x @ w.T) for g, w in zip(gates, merged.weight, strict=True))
    return found + merged.bias


def gates_of(merged, z, top):
    logits = merged.gate.bank.weight[0] @ z
    best = sorted(range(len(logits)), key=lambda e: -logits[e])[:top]
    gates = torch.zeros(len(logits)).double()
    gates[best] = softmax(logits[best])
    return gates


@torch.no_grad()
@pytest.mark.parametrize("level", ["sequence", "task", "token"])
@pytest.mark.parametrize("top", [1, 2, 4])
def test_merged_copies_are_the_mixture_of_the_copies(level, top):
    sharing = Meo(experts=4, top=top, level=level, size=6, reduction=2)
    net, given = moved(network(sharing, many(3))), batch(many(3))
    lengths = (given.parts["t"]["sequence.s"] != 0).sum(1).tolist()
    for merged in (m for part in parts_of(net) for m in (part.fc1, part.fc2)):
        ((tasks, inputs, found),), _ = watched(net, given, merged, merged)
        for n, (task, x) in enumerate(zip(tasks.tolist(), inputs, strict=True)):
            if level == "token":
                h = torch.relu(x @ merged.down.weight.T + merged.down.bias)
                x = x + h @ merged.up.weight.T + merged.up.bias
            z = x[: lengths[n % 4]].mean(0)
            if level == "task":
                vector = net.trunk.vectors.bank.vector[task]
                z = merged.project.weight @ vector + merged.project.bias
            expected = mixture(merged, x, gates_of(merged, z, top))
            torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("level", ["sequence", "task", "token"])
def test_before_training_every_row_sees_the_plain_encoder(level):
    given = batch()
    ours, plain = network(Meo(level=level)), network(Hard())
    ours.heads.load_state_dict(plain.heads.state_dict())
    one, two = by_task(ours, given), by_task(plain, given)
    for name, expected in two.items():
        torch.testing.assert_close(one[name], expected, rtol=0, atol=1e-12, equal_nan=True)


@torch.no_grad()
def test_one_copy_taken_is_that_copy_and_ties_go_to_the_first():
    net, given = network(Meo(experts=3, top=1), many(1)), batch(many(1))
    merged = parts_of(net)[0].fc1
    merged.weight += torch.arange(3.0)[:, None, None]
    ((_, inputs, found),), _ = watched(net, given, merged, merged)
    torch.testing.assert_close(found, inputs @ merged.weight[0].T + merged.bias)
    merged.gate.bank.weight[0, 2] = 1.0  # its logit is the sum of the mean
    ((_, inputs, found),), _ = watched(net, given, merged, merged)
    real = given.parts["t"]["sequence.s"] != 0
    for x, there, y in zip(inputs, real, found, strict=True):
        chosen = 2 if x[there].mean(0).sum() > 0 else 0
        torch.testing.assert_close(y, x @ merged.weight[chosen].T + merged.bias)


@torch.no_grad()
def test_padding_changes_nothing():
    net = moved(network(Meo()))
    short, long = by_task(net, batch()), by_task(net, batch(longest=9))
    for name in ("mood", "price"):
        torch.testing.assert_close(short[name], long[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(short["ner"], long["ner"][:, :5], equal_nan=True)


def test_copies_part_in_training_and_the_balance_is_paid():
    net, given = network(Meo(), many(3)).train(), batch(many(3))
    torch.manual_seed(0)
    outputs = net(given.parts, given.labels)
    assert outputs.penalties["balance"].item() > 0
    (sum(raw.sum() for raw in outputs.raw.values()) + outputs.penalties["balance"]).backward()
    merged = parts_of(net)[1].fc2
    assert merged.weight.grad.flatten(1).any(1).sum() > 2  # more copies than one row takes
    assert merged.gate.bank.weight.grad.any()
    assert merged.gate.bank.spread.grad.any()
    assert net.eval()(given.parts, given.labels).penalties == {}


def test_rows_stand_for_themselves():
    for law in (any_subset_can_be_asked, row_order_is_free, rows_are_separable):
        with torch.random.fork_rng():
            law(Subject(_Quiet))


class _Quiet(Meo):
    """Without the noise of training, which no two batches share."""

    def build(self, encoder, tasks):
        return super().build(encoder, tasks).eval()


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    tasks = many(count)
    plain = sum(p.numel() for p in network(Hard(), tasks).trunk.parameters())
    found = sum(p.numel() for p in network(Meo(experts=3), tasks).trunk.parameters())
    assert found - plain == 2 * (2 * 2 * 8 * 32 + 2 * (8 + 32) * 3)
    task = Meo(experts=3, level="task", size=12, reduction=4)
    found = sum(p.numel() for p in network(task, tasks).trunk.parameters())
    assert found - plain == 2 * 2 * (2 * 8 * 32 + 2 * 3 * 3 + 13 * 3) + count * 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"top": 5}, "top is 5 of 4 experts"),
        ({"level": "word"}, "level must be sequence, task or token"),
        ({"sites": ["trunk"]}, "trunk has fewer than two linear maps"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(Meo(**settings))
