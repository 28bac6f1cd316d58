from __future__ import annotations

import pytest
import torch
from on_tokens import TASKS, batch, by_task, gelu, many, moved, network, parts_of, watched

from plait.batch import Input, Records
from plait.networks import build_network
from plait.sharing import EnforcedRouting, Hard

TINY = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip


def on_text(sharing, frozen=False):
    text = Input(key="text.t", type="text", shape=(-1,), sizes=(41,))
    bert = {"transformer": {"config": TINY, "frozen": frozen}}
    encoder = {"text": bert, "trunk": {"mlp": {"depth": 0}}}
    return build_network(
        inputs={"text.t": text}, tasks=many(3), encoder=encoder, sharing=sharing, seed=0
    ).eval()


def outputs(net, tokens):
    rows = torch.arange(len(tokens))
    asked = {"binary": Records(torch.tensor([0, 1]).repeat_interleave(len(rows)), rows.repeat(2))}
    return net({"t": {"text.t": tokens}}, asked).raw["binary"].view(2, len(rows))


@torch.no_grad()
def test_every_token_goes_through_the_copy_of_its_task():
    net, given = moved(network(EnforcedRouting())), batch()
    for part in parts_of(net):
        runs, _ = watched(net, given, part.fc1, part.fc2)
        for tasks, inputs, found in runs:
            for task, row, y in zip(tasks.tolist(), inputs, found, strict=True):
                one, two = part.fc1.bank, part.fc2.bank
                h = gelu(row @ one.weight[task].T + one.bias[task])
                expected = h @ two.weight[task].T + two.bias[task]
                torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_before_training_every_task_sees_the_plain_encoder():
    given, ours, plain = batch(), network(EnforcedRouting()), network(Hard())
    ours.heads.load_state_dict(plain.heads.state_dict())
    one, two = by_task(ours, given), by_task(plain, given)
    for name, expected in two.items():
        torch.testing.assert_close(one[name], expected, rtol=0, atol=1e-12, equal_nan=True)
    ours, plain = on_text(EnforcedRouting(token=False)), on_text(Hard())
    ours.heads.load_state_dict(plain.heads.state_dict())
    tokens = torch.randint(1, 41, (3, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(outputs(ours, tokens), outputs(plain, tokens))


def test_training_a_task_leaves_the_copies_of_the_others():
    net, given = network(EnforcedRouting()).train(), batch()
    by_task(net, given, only="ner")["ner"].nansum().backward()
    for part in parts_of(net):
        for bank in (part.fc1.bank, part.fc2.bank):
            for parameter in bank.parameters():
                hit = [n for n, g in zip(bank.names, parameter.grad, strict=True) if g.any()]
                assert hit == ["ner"]


@torch.no_grad()
def test_a_texts_first_token_is_the_one_of_its_task():
    net = on_text(EnforcedRouting())
    tokens = torch.randint(1, 41, (3, 7), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 0] = 40 - other[:, 0] + 1
    assert torch.equal(outputs(net, tokens), outputs(net, other))
    assert not torch.equal(outputs(on_text(Hard()), tokens), outputs(on_text(Hard()), other))
    before = outputs(net, tokens)
    marked = next(m for n, m in net.named_modules() if n.endswith("word_embeddings"))
    marked.bank.token[0] += 1.0
    after = outputs(net, tokens)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    tasks, dense = many(count), 2 * (9 * 32 + 33 * 8)
    plain = sum(p.numel() for p in network(Hard(), tasks).trunk.parameters())
    found = sum(p.numel() for p in network(EnforcedRouting(), tasks).trunk.parameters())
    assert found - plain == (count - 1) * dense


def test_a_frozen_transformer_is_refused():
    with pytest.raises(ValueError, match="is frozen, and what tasks share inside it has to train"):
        on_text(EnforcedRouting(), frozen=True)


def test_sites_name_the_blocks_that_are_meant():
    net = network(EnforcedRouting(sites=["layers.0.1"]))
    first, second = parts_of(net)
    assert tuple(first.fc1.weight.shape) == (32, 8)
    assert tuple(second.fc1.bank.weight.shape) == (len(TASKS), 32, 8)
