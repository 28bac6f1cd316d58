from __future__ import annotations

import numpy as np
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

from plait.adapting import build_adapted
from plait.adapting.editing import add_task
from plait.adapting.files import load_adapter, save_adapter
from plait.adapting.lori import Lori
from plait.flows import merge
from plait.task import Task, TaskSet

SPARSE = Lori(rank=3, alpha=6.0, sparsity=0.8)


def both(adapter=SPARSE):
    """The network of the first stage, and that of the second with B away from 0."""
    first = bert(adapter.trained_on).double().eval()
    return first, moved(first, adapter)


def moved(first, adapter=SPARSE):
    network = build_adapted(first, adapter, 0).double().eval()
    filled(trunk_of(network).banks, seed=1)
    return network


def dense():
    """Two linear layers with LoRI-D, moved."""
    base = net()
    banks, routing = attached(Lori(rank=3, alpha=6.0, sparsity=0.0), base)
    return base, filled(banks.double()), routing


def test_the_mask_keeps_the_largest_numbers_of_all_sites_together():
    first, second = both()
    dense_banks, sparse = trunk_of(first).banks, trunk_of(second).banks
    shares = set()
    for task in range(3):
        every = torch.cat([bank.up[task].flatten().abs() for bank in dense_banks.values()])
        kept = round(0.2 * len(every))
        least = every.sort(descending=True).values[kept - 1]
        count = 0
        for path, bank in sparse.items():
            assert torch.equal(bank.mask[task], dense_banks[path].up[task].abs() >= least)
            count += int(bank.mask[task].sum())
            shares.add(int(bank.mask[task].sum()))
        assert count == kept
    assert len(shares) > 1  # not a share of each site


def test_equals_the_formula_row_by_row():
    first, second = both()
    value, task = texts(5, 5, 5), [2, 0, 1]
    found = states(second, value, task)
    plain = model_of(bert()).double()
    weights = {n: p.clone() for n, p in plain.named_parameters()}
    for row, t in enumerate(task):
        for path, bank in trunk_of(second).banks.items():
            name = path.replace("%2E", ".").partition("model.")[2] + ".weight"
            up, down = bank.up[t].clone(), trunk_of(first).banks[path].down[t]
            up[~bank.mask[t]] = 0.0
            plain.get_parameter(name).data = weights[name] + 6.0 / 3 * up @ down
        hidden = plain(input_ids=value[[row]] - 1)[0]
        torch.testing.assert_close(
            found[[row]], pooled(hidden, value[[row]] > 0), rtol=0, atol=1e-12
        )


def test_numbers_outside_the_mask_are_not_heard_and_get_no_gradient():
    _, second = both()
    before = states(second, texts(4, 4), [1, 1])
    before.square().sum().backward()
    for bank in trunk_of(second).banks.values():
        assert (bank.up.grad[1][~bank.mask[1]] == 0).all()
        assert (bank.up.grad[1][bank.mask[1]] != 0).any()
        bank.up.data[~bank.mask] = 100.0
    assert torch.equal(states(second, texts(4, 4), [1, 1]), before)


def test_what_was_trained_without_masks_is_not_heard_any_more():
    first = bert(SPARSE.trained_on).double().eval()
    again = build_adapted(first, SPARSE, 0).double().eval()
    value = texts(4, 5)
    assert torch.equal(states(again, value, [0, 2]), states(bert().double(), value, [0, 2]))


def test_projections_are_drawn_by_name_and_never_train():
    base, banks, _ = dense()
    turned, _ = attached(Lori(rank=3, sparsity=0.0), net(), TaskSet(reversed(list(TASKS))))
    assert {name for name, _ in banks.named_parameters()} == {"0.up", "2.up"}
    for place, bank in banks.items():
        assert torch.equal(bank.down.float(), turned[place].down.flip(0))
        assert bank.down.abs().max() <= base[int(place)].base.in_features ** -0.5
        assert not torch.equal(bank.down[0], bank.down[1])
    assert sum(p.numel() for p in banks.parameters()) == 3 * 3 * (6 + 3)


def test_a_task_that_comes_later_leaves_the_projections_of_the_others():
    network = bert(SPARSE.trained_on)
    before = {path: bank.down.clone() for path, bank in trunk_of(network).banks.items()}
    add_task(network, Task(name="new"), seed=5)
    for path, bank in trunk_of(network).banks.items():
        assert torch.equal(bank.down[:3], before[path])
        assert (bank.down[3] != 0).all()
        assert not bank.down.requires_grad


def test_with_orthogonal_projections_a_sum_of_adapters_keeps_each_on_its_own_inputs():
    base, banks, routing = dense()
    layer, bank = base[0], banks["0"]
    directions = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    bank.down.copy_(torch.zeros_like(bank.down))
    bank.down[0, :2], bank.down[1, :3] = directions[:2], directions[2:]
    x = torch.randn(4, 2, dtype=torch.float64) @ directions[:2]  # in the rows of A of task 0
    with routing.to(torch.zeros(4).long()):
        own = layer(x)
    both = layer.base(x) + x @ (bank.change(0) + bank.change(1)).T
    torch.testing.assert_close(both, own, rtol=0, atol=1e-12)


def test_adapters_of_tasks_merge_as_the_sum_of_their_products(tmp_path):
    _, second = both()
    second = second.float()
    for task in TASKS.names:
        save_adapter(second, task, tmp_path / task.replace("/", "-"))
    names = [task.replace("/", "-") for task in TASKS.names]
    base = {n: p.detach().numpy() for n, p in model_of(bert()).named_parameters()}
    found = merge(base, [tmp_path / name for name in names], {"task_arithmetic": {"scale": 1.0}})
    for path, bank in trunk_of(second).banks.items():
        name = path.replace("%2E", ".").partition("model.")[2] + ".weight"
        total = sum(2.0 * (b * m) @ a for a, b, m in zip(*parts(bank), strict=True))
        np.testing.assert_allclose(found.tensors[name], base[name] + total.numpy(), atol=1e-5)


def parts(bank):
    return bank.first[0].down, bank.up.detach(), bank.mask


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_hears_what_plait_hears(tmp_path):
    peft = pytest.importorskip("peft")
    _, second = both()
    second = second.float()
    save_adapter(second, "NR.AR", tmp_path)
    plain = model_of(bert())
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    value = texts(5, 5)
    hidden = theirs(input_ids=value - 1)[0]
    found = states(second, value, [1, 1])
    torch.testing.assert_close(found, pooled(hidden, value > 0), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="has its first stage's A"):
        load_adapter(second, "NR.AR", tmp_path)


def test_a_file_brings_its_projection_to_the_first_stage(tmp_path):
    first, _ = both()
    other = bert(SPARSE.trained_on)
    save_adapter(first.float(), "type", tmp_path)
    load_adapter(other, "a/b", tmp_path)
    value = texts(4, 6)
    torch.testing.assert_close(states(other.eval(), value, [2, 2]), states(first, value, [0, 0]))


def test_both_stages_come_back_from_a_folder(tmp_path):
    _, second = both()
    second.float().save_pretrained(tmp_path)
    again = type(second).from_pretrained(tmp_path)
    value = texts(4, 6)
    assert torch.equal(states(again, value, [0, 2]), states(second, value, [0, 2]))


def test_settings_and_stages_are_checked():
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        Lori(sparsity=1.0)
    with pytest.raises(ValueError, match="needs a network with trained lori adapters"):
        build_adapted(bert(), SPARSE, 0)
    _, second = both()
    with pytest.raises(ValueError, match="combines banks of type LowRankBank"):
        build_adapted(second, SPARSE, 0)
