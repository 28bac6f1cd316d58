from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, filled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.adapter_fusion import AdapterFusion
from plait.adapting.bottleneck import Bottleneck
from plait.adapting.lora import Lora

pytest.importorskip("transformers")


def fused(**settings):
    first = bert(Bottleneck(reduction=4)).double()
    return build_adapted(first, AdapterFusion(**settings), 0).double().eval()


def by_hand(bank, first, h, t):
    """The authors' layer for one row of task t: keys and values of every adapter's output."""
    inner = [(h @ first.down[e].T + first.down_bias[e]).relu() for e in range(3)]
    z = torch.stack([inner[e] @ first.up[e].T + first.up_bias[e] for e in range(3)], 1)
    query = h @ bank.query[t].T + bank.query_bias[t]
    key = z @ bank.key[t].T + 0.7  # a bias of the keys, which changes nothing
    value = z @ bank.value[t].T
    scores = (query[:, None] * key).sum(-1).softmax(-1)
    return (scores[:, :, None] * value).sum(1)


def test_equals_the_authors_layer():
    network = fused()
    trunk = trunk_of(network)
    bank = filled(trunk.banks)[next(iter(trunk.banks))]
    (first,) = bank.first
    h, task = torch.randn(4, 3, 16, dtype=torch.float64), torch.tensor([2, 0, 1, 2])
    found = bank.fused(h, task)
    for row, t in enumerate(task):
        torch.testing.assert_close(found[row], by_hand(bank, first, h[row], t), rtol=0, atol=1e-10)


def test_of_one_adapter_it_is_that_adapter_at_the_start():
    from plait.task import Task, TaskSet

    one = TaskSet([Task(name="one")])
    first = bert(Bottleneck(reduction=4), one).eval()
    network = build_adapted(first, AdapterFusion(), 0).eval()
    value = texts(5, 3)
    torch.testing.assert_close(
        states(network, value, [0, 0]), states(first, value, [0, 0]), rtol=0, atol=1e-3
    )


def test_without_a_query_it_takes_the_mean():
    network = fused()
    trunk = trunk_of(network)
    bank = next(iter(trunk.banks.values()))
    bank.query.data.zero_()
    h = torch.randn(2, 3, 16, dtype=torch.float64)
    every = bank.first[0].every(h)
    torch.testing.assert_close(
        bank.weights(h, every, torch.tensor([0, 1])), torch.full((2, 3, 3), 1 / 3).double()
    )


def test_only_the_second_stage_trains_and_the_penalty_is_of_present_tasks():
    network = fused(penalty=0.5)
    trunk = trunk_of(network)
    trained = {name.split(".")[0] for name, p in trunk.named_parameters() if p.requires_grad}
    assert trained == {"banks"}
    filled(trunk.banks)
    from plait.batch import Records

    asked = {"binary": Records(torch.tensor([1]), torch.tensor([0]))}
    penalty = network({"a": {"text.review": texts(4)}}, asked).penalties["adapter_fusion"]
    wanted = sum((b.value[1] - torch.eye(16)).square().sum() for b in trunk.banks.values()) / 2
    torch.testing.assert_close(penalty, wanted)


def test_parameters_are_the_formulas():
    trunk = trunk_of(fused())
    assert sum(p.numel() for p in trunk.banks.parameters()) == 2 * 3 * (3 * 16**2 + 16)


def test_stages_must_follow_one_another():
    with pytest.raises(ValueError, match=r"second stage: it needs .* bottleneck .* a plain one"):
        build_adapted(bert(), AdapterFusion(), 0)
    with pytest.raises(ValueError, match="this is one with lora"):
        build_adapted(bert(Lora(rank=2)), AdapterFusion(), 0)
    with pytest.raises(ValueError, match="has bottleneck inside; give the network"):
        build_adapted(bert(Bottleneck()), Lora(rank=2), 0)


def test_a_second_stage_comes_back_from_a_folder(tmp_path):
    from plait.networks import Network

    network = fused().float()
    filled(trunk_of(network).banks)
    network.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path).eval()
    value = texts(5, 3)
    assert torch.equal(states(network, value, [2, 0]), states(again, value, [2, 0]))
