from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import (
    TASKS,
    attached,
    bert,
    filled,
    model_of,
    net,
    pooled,
    states,
    texts,
    trunk_of,
)
from torch import nn

from plait.adapting.hyperformer import Hyperformer

SMALL = {"reduction": 3, "width": 4, "hidden": 5, "projected": 3}


def normal_of(x, eps):
    return (x - x.mean()) / (x.var(unbiased=False) + eps).sqrt()


def written(maker, task, layer, place, d, m):
    """D, b, U, b′, γ and β as the paper writes them, for one task and place."""
    known = [maker.own.embedding[task], maker.layers[layer]]
    if maker.positions is not None:
        known.append(maker.positions[place])
    hidden = (maker.first.weight @ torch.cat(known) + maker.first.bias).clamp(min=0)
    read = normal_of(maker.second.weight @ hidden + maker.second.bias, 1e-6)
    read = read * maker.norm.weight + maker.norm.bias
    of = place if len(maker.generator) > 1 else 0
    flat = maker.generator[of] @ read + maker.generator_bias[of]
    ends = [m * d, m, d * m, d, d, d]
    down, b, up, b_up, gain, shift = flat.split(ends)
    return down.view(m, d), b, up.view(d, m), b_up, gain, shift


def through(h, parts):
    """One token h [d] through a bottleneck."""
    down, b, up, b_up, gain, shift = parts
    inner = down @ h + b
    inner = 0.5 * inner * (1 + ((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)).tanh())
    return h + gain * normal_of(up @ inner + b_up, 1e-5) + shift


def even() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6)).double()


@pytest.mark.parametrize("kind", ["hyperformer++", "hyperformer"])
def test_equals_the_formula_token_by_token(kind):
    base = even()
    plain = copy.deepcopy(base)
    banks, routing = attached(Hyperformer(kind=kind, sites=("0", "2"), **SMALL), base)
    maker = filled(banks)["maker"]
    x, task = torch.randn(4, 2, 5, dtype=torch.float64), [2, 0, 1, 0]
    made = {maker: maker.once(torch.ones(3).bool())}
    with routing.to(torch.tensor(task), made):
        found = base(x)
    for row, t in enumerate(task):
        for token in range(2):
            h = plain[0](x[row, token])
            h = through(h, written(maker, t, 0, 0, 6, 2)).tanh()
            h = through(plain[2](h), written(maker, t, 1, 0, 6, 2))
            torch.testing.assert_close(found[row, token], h, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["hyperformer++", "hyperformer"])
def test_stands_after_attention_and_feed_forward_of_each_block(kind):
    pytest.importorskip("transformers")
    adapter = Hyperformer(kind=kind, reduction=4, width=4, hidden=5, projected=3)
    adapted = bert(adapter).double().eval()
    plain, maker = model_of(bert()).double(), trunk_of(adapted).banks["maker"]
    value, task = texts(5, 5, 5), [2, 0, 1]
    found = states(adapted, value, task)
    for row, t in enumerate(task):
        hooks = []
        for number, layer in enumerate(plain.encoder.layer):
            for place, module in ((1, layer.attention.output.dense), (0, layer.output.dense)):

                def follow(_, __, said, place=place, number=number, t=t):
                    parts = written(maker, t, number, place, 16, 4)
                    return torch.stack([through(h, parts) for h in said[0]]).unsqueeze(0)

                hooks.append(module.register_forward_hook(follow))
        x = plain(input_ids=value[[row]] - 1)[0]
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(found[[row]], pooled(x, value[[row]] > 0), rtol=0, atol=1e-10)


def test_tasks_with_one_embedding_say_the_same_and_biases_alone_are_one_adapter_for_all():
    base = even()
    banks, routing = attached(Hyperformer(sites=("0", "2"), **SMALL), base)
    maker = filled(banks)["maker"]
    x = torch.randn(1, 5, dtype=torch.float64).repeat(3, 1)

    def said():
        with routing.to(torch.arange(3), {maker: maker.once(torch.ones(3).bool())}):
            return base(x).detach()

    maker.own.embedding.data[2] = maker.own.embedding.data[0]
    found = said()
    torch.testing.assert_close(found[0], found[2])
    assert not torch.allclose(found[0], found[1])
    maker.generator.data.zero_()
    found = said()
    torch.testing.assert_close(found[0], found[1])
    (one, two) = maker.once(torch.ones(3).bool())
    assert torch.equal(one, two)


def test_every_task_learns_a_change_of_its_own():
    base = even()
    plain = copy.deepcopy(base).requires_grad_(False)
    base.requires_grad_(False)
    adapter = Hyperformer(reduction=2, width=8, hidden=16, projected=8, sites=("0", "2"))
    banks, routing = attached(adapter, base)
    maker, task = banks["maker"], torch.arange(3).repeat(20)
    changes, x = torch.randn(3, 6).double(), torch.randn(60, 5).double()
    target = plain(x) + changes[task]
    optimizer, found = torch.optim.Adam(banks.parameters(), lr=0.003), []
    for _ in range(200):
        with routing.to(task, {maker: maker.once(torch.ones(3).bool())}):
            each = (base(x) - target).square().mean(1)
        found.append(torch.stack([each[task == t].mean() for t in range(3)]).detach())
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    assert (found[-1] < 0.5 * found[0]).all()


def test_the_norms_of_the_transformer_train_unless_they_are_told_not_to():
    pytest.importorskip("transformers")
    for norms in (True, False):
        trunk = trunk_of(bert(Hyperformer(norms=norms, **SMALL)))
        moves = {name for name, p in trunk.base.named_parameters() if p.requires_grad}
        assert bool(moves) == norms
        assert all("LayerNorm" in name for name in moves)


def test_it_costs_what_is_written_down():
    banks, _ = attached(Hyperformer(sites=("0", "2"), **SMALL), even())
    total = 2 * 2 * 6 + 2 + 3 * 6
    wanted = (3 + 1) * total + (len(TASKS) + 2 + 2) * 4 + (3 * 4 + 1) * 5 + (5 + 1) * 3 + 2 * 3
    assert sum(p.numel() for p in banks.parameters()) == wanted


def test_settings_and_widths_are_checked():
    with pytest.raises(ValueError, match="did you mean 'hyperformer"):
        Hyperformer(kind="hyperformer+")
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        Hyperformer(hidden=0)
    with pytest.raises(ValueError, match="sites of one width"):
        attached(Hyperformer(sites=("0", "2")), net())
