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

from plait.adapting.bottleneck import Bottleneck


def through(bank, h, t):
    """U f(D h + b) + b′ of task t, as written."""
    inner = (h @ bank.down[t].T + bank.down_bias[t]).relu()
    return inner @ bank.up[t].T + bank.up_bias[t]


def test_follows_linear_layers_row_by_row():
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(Bottleneck(reduction=2), base)
    filled(banks)
    task, x = [2, 0, 1, 0], torch.randn(4, 3, 5, dtype=torch.float64)
    with routing.to(torch.tensor(task)):
        found = base(x)
    for row, t in enumerate(task):
        h = plain[0](x[row])
        h = (h + through(banks["0"], h, t)).tanh()
        h = plain[2](h)
        h = h + through(banks["2"], h, t)
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)


def layer_by_hand(layer, x, houlsby, pfeiffer):
    """One BERT block as its paper writes it, with adapters at their published places."""
    at, heads = layer.attention, layer.attention.self.num_attention_heads
    q, k, v = (
        f(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for f in (at.self.query, at.self.key, at.self.value)
    )
    mixed = ((q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5).softmax(-1) @ v
    said = at.output.dense(mixed.transpose(1, 2).flatten(2))
    x = at.output.LayerNorm(houlsby("attention.output.dense", said) + x)
    said = layer.output.dense(nn.functional.gelu(layer.intermediate.dense(x)))
    said = houlsby("output.dense", said)
    read = layer.output.LayerNorm(said + x)
    return layer.output.LayerNorm(said + pfeiffer("output.LayerNorm", read) + x)


@pytest.mark.parametrize("place", ["houlsby", "pfeiffer"])
def test_stands_in_a_transformer_where_the_papers_put_it(place):
    pytest.importorskip("transformers")
    adapted = bert(Bottleneck(place=place, reduction=4)).double().eval()
    plain = model_of(bert()).double()
    banks = {p.partition("layer%2E")[2]: b for p, b in trunk_of(adapted).banks.items()}
    assert len(banks) == (4 if place == "houlsby" else 2)
    value, task = texts(5, 5, 5), [2, 0, 1]
    found = states(adapted, value, task)
    for row, t in enumerate(task):
        x = plain.embeddings(input_ids=value[[row]] - 1)
        for number, layer in enumerate(plain.encoder.layer):

            def added(path, h, number=number, t=t):
                return through(banks[f"{number}.{path}".replace(".", "%2E")], h, t)

            def houlsby(path, h, added=added):
                return h + added(path, h) if place == "houlsby" else h

            def pfeiffer(path, h, added=added):
                return added(path, h) if place == "pfeiffer" else 0 * h

            x = layer_by_hand(layer, x, houlsby, pfeiffer)
        torch.testing.assert_close(found[[row]], pooled(x, value[[row]] > 0), rtol=0, atol=1e-10)


class Block(nn.Module):
    """A block that normalises first and gives its output in a tuple."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.o_proj(self.q_proj(x)), "cache"


def test_follows_the_block_where_norms_come_first():
    base = nn.ModuleDict({"layers": nn.ModuleList([Block()])}).double()
    plain = copy.deepcopy(base["layers"][0])
    banks, routing = attached(Bottleneck(reduction=2), base)
    filled(banks)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    with routing.to(torch.tensor([1, 1])):
        found, rest = base["layers"][0](x)
    h, _ = plain(x)
    (bank,) = banks.values()
    torch.testing.assert_close(found, h + through(bank, h, 1), rtol=0, atol=1e-12)
    assert rest == "cache"


def test_every_gives_what_each_task_would_add():
    banks, routing = attached(Bottleneck(reduction=2), net())
    filled(banks)
    h = torch.randn(3, 2, 6, dtype=torch.float64)
    every = banks["0"].every(h)
    for t in range(len(TASKS)):
        with routing.to(torch.full((3,), t)):
            torch.testing.assert_close(every[:, :, t], banks["0"].added(h, routing))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"place": "phiffer"}, "did you mean 'pfeiffer'"),
        ({"activation": "gelus"}, "did you mean 'gelu'"),
        ({"reduction": 0}, "at least 1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Bottleneck(**settings)
