from __future__ import annotations

import math

import pytest
import torch
from on_images import VIT, features_by_task
from on_images import batch as images
from on_images import network as on_images
from on_tokens import TASKS, batch, by_task, gelu, many, moved, network, parts_of, watched
from torch.utils.flop_counter import FlopCounterMode

from plait.networks.positions import at
from plait.sharing import Hard, M3Vit, expert_use
from plait.sharing.pathways import Load, Ways, chance_of_top
from plait.testing import Subject
from plait.testing.networks import (
    any_subset_can_be_asked,
    row_order_is_free,
    rows_are_separable,
    unlabelled_row_is_as_if_removed,
)

SMALL = {"experts": 5, "top": 2, "every": 1, "size": 3}


def softmax(x):
    shares = torch.exp(x - x.max())
    return shares / shares.sum()


def logits_of(net, part, task, x):
    gate = part.fc1.gate
    if gate.bank.weight.shape[0] > 1:
        return gate.bank.weight[task] @ x
    first, (activation, second, norm) = net.trunk.vectors.first.weight[task], net.trunk.vectors.rest
    del activation
    h = second.weight @ gelu(first + net.trunk.vectors.bias) + second.bias
    vector = (h - h.mean()) / torch.sqrt(h.var(correction=0) + 1e-5) * norm.weight + norm.bias
    return gate.bank.weight[0] @ torch.cat([x, vector])


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, {"router": "conditioned"}, {"noise": "learnt"}, {"top": 5}])
def test_a_part_is_the_papers_one_token_at_a_time(more):
    settings = {**SMALL, **more}
    net, given = moved(network(M3Vit(**settings))), batch()
    for part in parts_of(net):
        runs, _ = watched(net, given, part.fc1, part.fc2)
        assert len(runs) == 2  # rows, then tokens
        for tasks, inputs, outputs in runs:
            for task, row, found in zip(tasks.tolist(), inputs, outputs, strict=True):
                for x, y in zip(row, found, strict=True):
                    logits = logits_of(net, part, task, x)
                    best = sorted(range(5), key=lambda e: -logits[e])[: settings["top"]]
                    p = softmax(logits)
                    if settings.get("noise") == "learnt":
                        p = dict(zip(best, softmax(logits[best]), strict=True))
                    expected = torch.zeros(8).double()
                    for e in best:
                        h = gelu(part.fc1.stack.weight[e] @ x + part.fc1.stack.bias[e])
                        expected += p[e] * (part.fc2.stack.weight[e] @ h + part.fc2.stack.bias[e])
                    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_task_alone_gets_what_it_gets_among_others():
    net, given = network(M3Vit(**SMALL)), batch()
    whole = by_task(net, given)
    for name in TASKS.names:
        alone = by_task(net, given, only=name)[name]
        torch.testing.assert_close(alone, whole[name], rtol=0, atol=1e-12, equal_nan=True)


@torch.no_grad()
def test_only_the_chosen_experts_run():
    given, counts = batch(many(1)), []
    for top in (1, 2, 4):
        net = network(M3Vit(experts=6, top=top), many(1))
        with FlopCounterMode(display=False) as counter:
            net(given.parts, given.labels)
        counts.append(counter.get_total_flops())
    each = 20 * 2 * (2 * 8 * 8) + 20 * 2 * 8  # tokens, two maps and a weight for what comes out
    assert counts[1] - counts[0] == each
    assert counts[2] - counts[1] == 2 * each


@torch.no_grad()
def test_a_pixel_is_served_as_its_image_would_be_alone():
    net, given = moved(on_images(M3Vit(**SMALL), image=VIT), 0.1), images()
    found = features_by_task(net, given)
    for name in net.tasks.names:
        task = torch.tensor([net.tasks.position[name]])
        for row, image in enumerate(given.parts["t"]["image.i"]):
            with at(net.tasks[name].place), net.trunk.rows.to(task, Ways()):
                expected = net.encoder({"t": {"image.i": image[None]}})
            mine = found[name].view(3, len(expected), -1)[row]
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_the_balance_is_the_papers_for_each_task_and_no_padding_counts():
    net, given = network(M3Vit(**SMALL, balance=0.5)).train(), batch()
    expected, real = 0.0, given.parts["t"]["sequence.s"] != 0
    for part in parts_of(net):
        runs, outputs = watched(net, given, part.fc1, part.fc2)
        for tasks, inputs, _ in runs:
            for task in range(4):
                tokens = inputs[tasks == task][real[: (tasks == task).sum()]]
                if len(tokens):
                    logits = (tokens @ part.fc1.gate.bank.weight[task].T).detach()
                    ranks = logits.argsort(1, descending=True).argsort(1)
                    gates = torch.stack([softmax(row) for row in logits]) * (ranks < 2)
                    for sums in (gates.sum(0), (gates > 0).double().sum(0)):
                        expected += 0.5 * float(sums.var() / (sums.mean() ** 2 + 1e-10))
    assert outputs.penalties["balance"].item() == pytest.approx(expected)
    assert network(M3Vit(**SMALL)).eval()(given.parts, given.labels).penalties == {}


def test_even_gates_have_no_balance_to_pay():
    from plait.sharing.m3vit import _balance

    even = torch.full((3, 5), 2.0)
    assert _balance(Load(even, even, even), 1.0) == 0
    assert _balance(Load(even[:, :1], even[:, :1], even), 1.0) == 0


def test_the_load_under_learnt_noise_is_the_chance_of_being_taken():
    clean = torch.tensor([[0.3, -0.2, 0.9, 0.1]])
    noisy, spread = torch.tensor([[0.5, -0.6, 0.7, 0.2]]), torch.tensor([[0.4, 0.3, 0.6, 0.2]])
    ordered = noisy.sort(descending=True).values
    taken = (noisy >= ordered[:, 1:2]).float()
    found = chance_of_top(clean, ordered, taken, spread, 2)
    for e in range(4):
        others = sorted((float(noisy[0, o]) for o in range(4) if o != e), reverse=True)
        z = (float(clean[0, e]) - others[1]) / float(spread[0, e])
        assert float(found[0, e]) == pytest.approx((1 + math.erf(z / 2**0.5)) / 2, abs=1e-6)


@pytest.mark.parametrize("noise", [3.0, "learnt"])
def test_noise_is_drawn_in_training_only(noise):
    net, given = network(M3Vit(**SMALL, noise=noise)), batch()
    quiet = by_task(net, given)["mood"]
    net.train()
    torch.manual_seed(0)
    one, two = by_task(net, given)["mood"], by_task(net, given)["mood"]
    assert not torch.equal(one, two)
    torch.manual_seed(0)
    assert torch.equal(one, by_task(net, given)["mood"])
    assert torch.equal(quiet, by_task(net.eval(), given)["mood"])


def test_rows_stand_for_themselves():
    for law in (any_subset_can_be_asked, row_order_is_free, rows_are_separable):
        law(Subject(M3Vit))
    unlabelled_row_is_as_if_removed(Subject(M3Vit))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    tasks = many(count)
    ours, plain = network(M3Vit(experts=6, top=2), tasks), network(Hard(), tasks)
    added = sum(p.numel() for p in ours.trunk.parameters())
    added -= sum(p.numel() for p in plain.trunk.parameters())
    dense = 9 * 32 + 33 * 8
    assert added == 6 * (2 * 8 * 8 + 8 + 8) + count * 8 * 6 - dense


def test_the_report_sees_who_uses_which_expert():
    net = network(M3Vit(experts=5, top=2), many(3))
    (use,) = expert_use(net, batch(many(3)).parts)
    assert use.tasks == many(3).names
    assert tuple(use.load.shape) == (3, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"top": 17}, "top is 17 of 16 experts"),
        ({"ratio": 0}, "ratio must be greater than 0"),
        ({"router": "none"}, "router must be own or conditioned"),
        ({"noise": "loud"}, "noise must be at least 0, or learnt"),
        ({"every": 3}, "no block number 3; set every: 1"),
        ({"sites": ["stems.sequense"]}, "no module matches 'stems.sequense'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(M3Vit(**settings))
