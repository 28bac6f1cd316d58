from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, filled, states, texts, trunk_of

from plait.adapting import Adapted, build_adapted
from plait.adapting.adapter_fusion import AdapterFusion
from plait.adapting.bottleneck import Bottleneck
from plait.adapting.scalearn import KINDS, ScaLearn

pytest.importorskip("transformers")


def scaled(kind="scalearn", **settings):
    first = bert(Bottleneck(reduction=4)).double()
    return build_adapted(first, ScaLearn(kind=kind, **settings), 0).double().eval()


def scales_of(network):
    """ω at each site, in order."""
    return [
        (bank.scales or bank.common[0]).scales
        for name, bank in trunk_of(network).banks.items()
        if name != "scales"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_scales_are_that_adapter_alone(kind):
    first = bert(Bottleneck(reduction=4)).double().eval()
    network = build_adapted(first, ScaLearn(kind=kind), 0).double().eval()
    source = [2, 0, 1]  # task t hears the adapter of another
    for scales in scales_of(network):
        scales.data.zero_()
        for task, e in enumerate(source):
            scales.data[task, e] = 1.0
    value = texts(5, 3, 4)
    torch.testing.assert_close(
        states(network, value, [0, 1, 2]), states(first, value, source), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula_at_each_site(kind):
    network = scaled(kind)
    trunk = trunk_of(network)
    filled(trunk.banks)
    layers = [module for module in trunk.base.modules() if isinstance(module, Adapted)]
    outer = [layer for layer in layers if isinstance(layer.base, Adapted)]
    x, task = torch.randn(2, 3, 16, dtype=torch.float64), torch.tensor([2, 1])
    made = {bank: bank.once(torch.ones(3).bool()) for bank in trunk.own}
    for layer, scales in zip(outer, scales_of(network), strict=True):
        with trunk.routing.to(task, made):
            found = layer(x)
        norm, (first,) = layer.base.base, layer.bank.first
        for row, t in enumerate(task):
            h, added = norm(x[row]), 0.0
            for e in range(3):
                inner = (h @ first.down[e].T + first.down_bias[e]).relu()
                added = added + scales[t, e] * (inner @ first.up[e].T + first.up_bias[e])
            torch.testing.assert_close(found[row], norm(x[row] + added), rtol=0, atol=1e-12)


def count(network):
    return sum(p.numel() for p in trunk_of(network).banks.parameters())


def test_parameters_are_the_formulas_and_a_sliver_of_fusions():
    d, tasks, sites = 16, 3, 2
    assert count(scaled("scalearn")) == sites * tasks * tasks * d
    assert count(scaled("uniform")) == sites * tasks * tasks
    assert count(scaled("scalearn++")) == tasks * tasks * d
    assert count(scaled("uniform++")) == tasks * tasks
    fusion = build_adapted(bert(Bottleneck(reduction=4)), AdapterFusion(), 0)
    assert count(scaled("scalearn")) / count(fusion) == pytest.approx(3 * d / (3 * d**2 + d))


def test_scales_start_around_two_shared_out_and_by_the_names_of_sources():
    network = scaled()
    (one, *_) = scales_of(network)
    assert float((one.detach() - 2 / 3).abs().max()) < 0.01
    assert float(one.detach().std()) > 0.0005


def test_dropout_acts_on_the_scales_once_a_task_in_training():
    network = scaled("uniform", dropout=0.5)
    bank = next(iter(trunk_of(network).banks.values()))
    made = bank.train().once(torch.ones(3).bool())
    kept = made != 0
    assert 0 < int(kept.sum()) < made.numel()
    torch.testing.assert_close(made[kept], 2 * bank.scales.scales[kept])
    value = texts(5, 5, 5, 5)
    value[:] = value[0]
    torch.manual_seed(1)
    found = states(network.train(), value, [1, 1, 1, 1])
    assert torch.equal(found, found[:1].expand_as(found))


def test_kinds_are_checked():
    with pytest.raises(ValueError, match=r"did you mean 'uniform\+\+'"):
        ScaLearn(kind="uniform+")
