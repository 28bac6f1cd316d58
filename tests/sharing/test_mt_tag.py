from __future__ import annotations

import pytest
import torch
from on_tokens import TASKS, batch, by_task, gelu, many, moved, network, parts_of, watched

from plait.sharing import Hard, MtTag
from plait.sharing.mt_tag import _balance
from plait.sharing.pathways import Load
from plait.testing import Subject
from plait.testing.networks import any_subset_can_be_asked, row_order_is_free, rows_are_separable


def softmax(x):
    shares = torch.exp(x - x.max())
    return shares / shares.sum()


@torch.no_grad()
@pytest.mark.parametrize(("gate", "top"), [("own", 2), ("shared", 2), ("own", 3)])
def test_a_part_is_the_papers_one_token_at_a_time(gate, top):
    net, given = moved(network(MtTag(experts=3, top=top, gate=gate, size=4))), batch()
    for part in parts_of(net):
        runs, _ = watched(net, given, part.fc1, part.fc2)
        bank = part.fc1.gate.bank
        for tasks, inputs, outputs in runs:
            for task, row, found in zip(tasks.tolist(), inputs, outputs, strict=True):
                for x, y in zip(row, found, strict=True):
                    if gate == "own":
                        logits = bank.weight[task] @ x
                    else:
                        vector = net.trunk.vectors.bank.vector[task]
                        logits = bank.weight[0] @ torch.cat([x, vector])
                    best = sorted(range(3), key=lambda e: -logits[e])[:top]
                    expected = torch.zeros(8).double()
                    for g, e in zip(softmax(logits[best]), best, strict=True):
                        h = gelu(part.fc1.stack.weight[e] @ x + part.fc1.stack.bias[e])
                        expected += g * (part.fc2.stack.weight[e] @ h + part.fc2.stack.bias[e])
                    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_before_training_every_row_sees_the_plain_encoder():
    given, ours, plain = batch(), network(MtTag()), network(Hard())
    ours.heads.load_state_dict(plain.heads.state_dict())
    one, two = by_task(ours, given), by_task(plain, given)
    for name, expected in two.items():
        torch.testing.assert_close(one[name], expected, rtol=0, atol=1e-12, equal_nan=True)


@torch.no_grad()
def test_tasks_of_equal_gates_are_routed_alike_and_each_alone_as_among_others():
    net, given = moved(network(MtTag())), batch()
    for part in parts_of(net):
        part.fc1.gate.bank.weight[2] = part.fc1.gate.bank.weight[0]
    asked = {key: given.labels[key] for key in ("binary", "real")}
    found = net(given.parts, asked).features
    assert torch.equal(found["binary"].records, found["real"].records)
    whole = by_task(net, given)
    for name in TASKS.names:
        alone = by_task(net, given, only=name)[name]
        torch.testing.assert_close(alone, whole[name], rtol=0, atol=1e-12, equal_nan=True)


def test_the_balance_is_that_of_the_whole_batch():
    even = torch.ones(2, 4)
    assert _balance(Load(even, even, even), 0.3).item() == pytest.approx(0.3)
    # Each task has a copy of its own: over the batch that is even, and costs no more.
    apart = torch.zeros(4, 4).fill_diagonal_(1.0)
    assert _balance(Load(apart, apart, apart), 0.3).item() == pytest.approx(0.3)
    one = torch.zeros(2, 4)
    one[:, 1] = 1.0
    assert _balance(Load(one, one, one), 0.3).item() == pytest.approx(1.2)


def test_the_balance_counts_real_tokens():
    net, given = network(MtTag(balance=0.5)).train(), batch(many(3))
    net, expected = network(MtTag(balance=0.5), many(3)).train(), 0.0
    real = (given.parts["t"]["sequence.s"] != 0).repeat(3, 1)
    for part in parts_of(net):
        ((tasks, inputs, _),), outputs = watched(net, given, part.fc1, part.fc2)
        weight = part.fc1.gate.bank.weight.detach()
        logits = torch.stack(
            [weight[t] @ x for t, row, there in zip(tasks, inputs, real, strict=True)
             for x in row[there]]
        )  # fmt: skip
        taken = torch.zeros(4).double()
        for row in logits:
            for e in row.argsort(descending=True)[:2]:
                taken[e] += 1 / (2 * len(logits))
        odds = torch.stack([softmax(row) for row in logits]).mean(0)
        expected += 0.5 * 4 * float((taken * odds).sum())
    assert outputs.penalties["balance"].item() == pytest.approx(expected)


def test_rows_stand_for_themselves():
    for law in (any_subset_can_be_asked, row_order_is_free, rows_are_separable):
        law(Subject(MtTag))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    tasks, dense = many(count), 2 * (9 * 32 + 33 * 8)
    plain = sum(p.numel() for p in network(Hard(), tasks).trunk.parameters())
    for gate, more in (("own", 2 * count * 8 * 3), ("shared", 2 * 3 * (8 + 5) + count * 5)):
        net = network(MtTag(experts=3, gate=gate, size=5), tasks)
        assert sum(p.numel() for p in net.trunk.parameters()) - plain == 2 * dense + more


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 1}, "experts must be at least 2"),
        ({"top": 1}, "top must be at least 2"),
        ({"top": 5}, "top is 5 of 4 experts"),
        ({"gate": "hard"}, "gate must be own or shared"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MtTag(**settings)
