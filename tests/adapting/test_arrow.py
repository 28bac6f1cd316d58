from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.arrow import Arrow, prototypes
from plait.adapting.dora import Dora
from plait.adapting.lora import Lora

pytest.importorskip("transformers")


def mixed(adapter):
    """The first stage, moved, and the library over it."""
    first = bert(adapter.trained_on).double().eval()
    return first, build_adapted(first, adapter, 0).double().eval()


@pytest.mark.parametrize("settings", [{}, {"top": 2, "temperature": 0.4}, {"temperature": 0.0}])
def test_equals_the_formula_token_by_token(settings):
    adapter = Arrow(sources=Lora(rank=2, alpha=6.0), **settings)
    first, network = mixed(adapter)
    plain = model_of(bert()).double()
    for path, bank in trunk_of(first).banks.items():
        products = [b @ a for a, b in zip(bank.down.detach(), bank.up.detach(), strict=True)]

        def follow(_, inputs, said, products=products):
            answer = said.clone()
            for row, col in torch.cartesian_prod(*map(torch.arange, said.shape[:2])).tolist():
                x = inputs[0][row, col]
                scores = [(torch.linalg.svd(w).Vh[0] @ x).abs().item() for w in products]
                tau = adapter.temperature or len(x) ** 0.5
                best = sorted(range(3), key=lambda e: -scores[e])[: adapter.top or 3]
                share = torch.tensor([scores[e] / tau for e in best], dtype=x.dtype).softmax(0)
                for weight, e in zip(share, best, strict=True):
                    answer[row, col] += weight * 6.0 / 2 * products[e] @ x
            return answer

        layer = plain.get_submodule(path.replace("%2E", ".").partition("model.")[2])
        layer.register_forward_hook(follow)
    value = texts(4, 4, 4)
    found = states(network, value, [2, 0, 1])
    hidden = plain(input_ids=value - 1)[0].detach()
    torch.testing.assert_close(found, pooled(hidden, value > 0), rtol=0, atol=1e-10)


def test_prototypes_are_first_singular_vectors_of_the_products():
    draw = torch.Generator().manual_seed(0)
    down = torch.randn(4, 3, 9, generator=draw, dtype=torch.float64)
    up = torch.randn(4, 7, 3, generator=draw, dtype=torch.float64)
    found = prototypes(down, up)
    for e in range(4):
        wanted = torch.linalg.svd(up[e] @ down[e]).Vh[0]
        assert abs(float(wanted @ found[e])) == pytest.approx(1.0, abs=1e-12)
    one = prototypes(down[:, :1], up[:, :, :1])
    wanted = down[:, 0] / down[:, 0].norm(dim=1, keepdim=True)
    torch.testing.assert_close((one * wanted).sum(1).abs(), torch.ones(4).double())


def test_inputs_along_a_prototype_are_answered_by_that_adapter():
    _, network = mixed(Arrow(sources=Lora(rank=2), temperature=1e-3))
    bank = next(iter(trunk_of(network).banks.values()))
    bank.prototypes.copy_(torch.eye(3, 16))
    x = torch.eye(3, 16).double().unsqueeze(0) * 2.0
    torch.testing.assert_close(bank.gates(x)[0], torch.eye(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(bank.gates(-x), bank.gates(x))


def test_the_task_of_a_row_does_not_matter_and_nothing_trains_but_the_heads():
    _, network = mixed(Arrow())
    value = texts(4, 6)
    assert torch.equal(states(network, value, [0, 0]), states(network, value, [2, 1]))
    trains = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in trains} == {"heads"}


def test_prototypes_come_back_from_a_folder(tmp_path):
    _, network = mixed(Arrow(top=1))
    network.float().save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    value = texts(4, 6)
    assert torch.equal(states(again, value, [0, 2]), states(network, value, [0, 2]))


def test_settings_and_stages_are_checked():
    with pytest.raises(ValueError, match="must not be negative"):
        Arrow(top=-1)
    with pytest.raises(ValueError, match="arrow mixes plain pairs"):
        mixed(Arrow(sources=Dora(rank=2)))
