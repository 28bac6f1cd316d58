from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from plait.adapting import Lora, Routing


def test_routing_is_restored_when_left():
    routing, one, two = Routing(), torch.tensor([1]), torch.tensor([2])
    with routing.to(one):
        with routing.to(two):
            assert routing.task is two
        assert routing.task is one
    with pytest.raises(RuntimeError, match="without knowing its rows' tasks"):
        _ = routing.task


def test_routing_is_restored_after_an_error():
    routing = Routing()
    with pytest.raises(KeyError), routing.to(torch.tensor([1])):
        raise KeyError
    with pytest.raises(RuntimeError):
        _ = routing.task


def test_checkpointed_blocks_recompute_with_the_tasks_they_ran_with():
    routing, scale = Routing(), torch.tensor([1.0, 10.0, 100.0], requires_grad=True)

    def block(x):
        return (x * scale[routing.task]).sin()

    x = torch.tensor([0.1, 0.2], requires_grad=True)
    outputs = []
    for task in ([0, 2], [1, 1]):  # two forwards before one backward
        with routing.to(torch.tensor(task)):
            outputs.append(checkpoint(block, x, use_reentrant=False, context_fn=routing.contexts))
    sum(outputs).sum().backward()
    found = scale.grad.clone()
    scale.grad = None
    for task in ([0, 2], [1, 1]):
        with routing.to(torch.tensor(task)):
            block(x).sum().backward()
    torch.testing.assert_close(found, scale.grad)


def test_a_checkpoint_without_the_context_raises_rather_than_misroutes():
    routing, scale = Routing(), torch.ones(2, requires_grad=True)
    with routing.to(torch.tensor([0, 1])):
        out = checkpoint(
            lambda x: (x * scale[routing.task]).sin(), torch.ones(2), use_reentrant=False
        )
    with pytest.raises(RuntimeError, match=r"context_fn=routing\.contexts"):
        out.sum().backward()


def test_rows_must_be_whole():
    routing = Routing()
    with routing.to(torch.tensor([0, 1])), pytest.raises(ValueError, match="3 rows for 2"):
        routing.by_row(torch.zeros(3, 4))
    with routing.to(torch.tensor([0, 1])):
        assert routing.by_row(torch.zeros(6, 4)).shape == (2, 3, 4)
        assert routing.by_row(torch.zeros(2, 5, 7, 4)).shape == (2, 35, 4)


class Block(nn.Module):
    def __init__(self, *names):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(2, 2))


@pytest.mark.parametrize("names", [("query", "key", "value"), ("q_proj", "k_proj", "v_proj")])
def test_attention_is_adapted_at_its_queries_and_values(names):
    sites = Lora().choose(nn.ModuleDict({"block": Block(*names), "mlp": nn.Linear(2, 2)}))
    assert [site.path for site in sites] == [f"block.{names[0]}", f"block.{names[2]}"]


def test_without_attention_every_linear_layer_is():
    sites = Lora().choose(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    assert [site.path for site in sites] == ["0", "2"]


def test_chosen_sites_are_patterns():
    net = nn.ModuleDict({"block": Block("query"), "top": nn.Linear(2, 2)})
    assert [site.path for site in Lora(sites=["top"]).choose(net)] == ["top"]
    with pytest.raises(ValueError, match="did you mean 'query'"):
        Lora(sites=["*.quary"]).choose(net)
    with pytest.raises(ValueError, match="no <query> and <value> or <linear> for lora"):
        Lora().choose(nn.ReLU())
    with pytest.raises(ValueError, match=r"no role '<quer>'.*did you mean 'query'"):
        Lora(sites=["<quer>"]).choose(net)
