from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from plait.networks import TaskBank
from plait.training.optim import (
    RowwiseAdamW,
    clip_joint,
    clip_slices,
    decay_groups,
    moves_absent,
)

NAMES = ("a", "b", "c")
SETTINGS = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.1}


def bank(*shape: int, names: tuple[str, ...] = NAMES) -> nn.Parameter:
    torch.manual_seed(0)
    home = TaskBank(names)
    parameter = home.add("weight", *shape)
    parameter.data = torch.randn(len(names), *shape, dtype=torch.float64)
    return parameter


def walk(present_at, steps: int = 60) -> tuple[nn.Parameter, list[nn.Parameter], list[float]]:
    """The bank and separate leaves after the same steps, and their distance on the way."""
    stacked = bank(4, 5)
    leaves = [nn.Parameter(part.detach().clone()) for part in stacked]
    rowwise = RowwiseAdamW([stacked], **SETTINGS)
    plain = [torch.optim.AdamW([leaf], **SETTINGS) for leaf in leaves]
    apart = []
    for step in range(steps):
        present = present_at(step)
        stacked.grad = torch.randn_like(stacked)
        for i, name in enumerate(NAMES):
            if name in present:
                leaves[i].grad = stacked.grad[i].clone()
                plain[i].step()
            else:
                stacked.grad[i] = 0
        rowwise.step(present=present)
        gap = (stacked - torch.stack(leaves)) / stacked.abs().clamp(min=1)
        apart.append(float(gap.detach().abs().max()))
    return stacked, leaves, apart


@pytest.mark.parametrize(
    "present_at",
    [
        lambda _: NAMES,
        lambda step: NAMES if step % 3 else NAMES[:1],
        lambda step: [NAMES[step % 3]],
        lambda step: NAMES[:2] if step < 30 else NAMES,
    ],
    ids=["all", "now and then", "in turns", "one comes late"],
)
def test_slices_equal_separate_leaves(present_at):
    _, _, apart = walk(present_at)
    assert max(apart) < 4e-16  # two roundings


def test_an_absent_slice_keeps_value_momentum_and_step_count():
    stacked = bank(4)
    optimizer = RowwiseAdamW([stacked], lr=0.1, weight_decay=0.5)
    for present in (NAMES, NAMES):
        stacked.grad = torch.randn_like(stacked)
        optimizer.step(present=present)
    before = stacked.detach().clone()
    moments = {k: v.clone() for k, v in optimizer.state[stacked].items()}
    stacked.grad = torch.randn_like(stacked)  # whatever it is, b's is not looked at
    optimizer.step(present=["a", "c"])
    assert torch.equal(stacked[1], before[1])
    assert not torch.isclose(stacked[0], before[0]).any()
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[stacked][name][1], moments[name][1])
    assert optimizer.state[stacked]["step"].tolist() == [3, 2, 3]


def test_rows_of_a_sparse_table_equal_separate_leaves():
    torch.manual_seed(0)
    table = nn.Embedding(9, 4, sparse=True, dtype=torch.float64)
    head = nn.Linear(4, 1, dtype=torch.float64)
    leaves = [nn.Parameter(row.detach().clone()) for row in table.weight]
    twin = deepcopy(head)
    rowwise = RowwiseAdamW([*table.parameters(), *head.parameters()], **SETTINGS)
    plain = [torch.optim.AdamW([leaf], **SETTINGS) for leaf in leaves]
    plain.append(torch.optim.AdamW(twin.parameters(), **SETTINGS))
    for step in range(40):
        # A row several times, rows that come late, and one (8) that never comes.
        ids = torch.randint(0, 4 if step < 20 else 8, (6,))
        before = table.weight.detach().clone()
        for optimizer in (rowwise, *plain):
            optimizer.zero_grad()
        head(table(ids)).square().sum().backward()
        assert table.weight.grad.is_sparse
        rowwise.step()
        twin(torch.stack([leaves[i] for i in ids.tolist()])).square().sum().backward()
        for optimizer in plain:
            optimizer.step()  # leaves without a gradient stay
        still = [row for row in range(9) if row not in ids]
        assert torch.equal(table.weight[still], before[still])
    torch.testing.assert_close(table.weight, torch.stack(leaves), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.weight, twin.weight, rtol=1e-12, atol=1e-12)


def test_sparse_tables_resume_from_a_state_dict():
    def steps(table, optimizer, some):
        for ids in some:
            optimizer.zero_grad()
            table(ids).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    every = [torch.randint(0, 7, (3,)) for _ in range(20)]
    table = nn.Embedding(7, 3, sparse=True)
    again = deepcopy(table)
    through, first, second = (
        RowwiseAdamW(t.parameters(), **SETTINGS) for t in (table, again, again)
    )
    steps(table, through, every)
    steps(again, first, every[:9])
    second.load_state_dict(deepcopy(first.state_dict()))
    steps(again, second, every[9:])
    assert torch.equal(table.weight, again.weight)


def test_sparse_gradients_are_of_whole_rows():
    parameter = nn.Parameter(torch.zeros(3, 3))
    parameter.grad = torch.eye(3).to_sparse()
    with pytest.raises(ValueError, match="2 sparse dimensions; RowwiseAdamW takes those of whole"):
        RowwiseAdamW([parameter]).step()


def test_whole_parameters_equal_adamw():
    torch.manual_seed(0)
    start = [torch.randn(6, 3), torch.randn(6)]
    ours = [nn.Parameter(t.clone()) for t in start]
    theirs = [nn.Parameter(t.clone()) for t in start]
    one, two = RowwiseAdamW(ours, **SETTINGS), torch.optim.AdamW(theirs, **SETTINGS)
    for _ in range(30):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        one.step(present=["a"])
        two.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)


def test_parameters_without_gradient_stay():
    stacked, plain = bank(4), nn.Parameter(torch.ones(2))
    optimizer = RowwiseAdamW([stacked, plain], lr=1.0, weight_decay=1.0)
    before = stacked.detach().clone()
    optimizer.step(present=["a"])
    assert torch.equal(stacked, before)
    assert plain.tolist() == [1, 1]


def test_tasks_of_other_banks_may_be_named():
    one, other = bank(2), bank(2, names=("x", "y"))
    optimizer = RowwiseAdamW([one, other], lr=0.1)
    one.grad, other.grad = torch.ones_like(one), torch.ones_like(other)
    before = other.detach().clone()
    optimizer.step(present=["a", "b", "c", "x"])
    assert torch.equal(other[1], before[1])
    assert not torch.equal(other[0], before[0])


def test_state_survives_torchs_own_state_dict():
    stacked, _, _ = walk(lambda _: NAMES, steps=0)
    one = RowwiseAdamW([stacked], **SETTINGS)
    for present in (NAMES, ["b"], NAMES):
        stacked.grad = torch.randn_like(stacked)
        one.step(present=present)
    twin = nn.Parameter(stacked.detach().clone())
    twin.plait_tasks = NAMES
    two = RowwiseAdamW([twin], **SETTINGS)
    two.load_state_dict(deepcopy(one.state_dict()))
    for present in (["a"], NAMES):
        stacked.grad = torch.randn_like(stacked)
        twin.grad = stacked.grad.clone()
        one.step(present=present)
        two.step(present=present)
    assert torch.equal(stacked, twin)


def test_a_closure_gives_the_loss():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = RowwiseAdamW([parameter], lr=0.1)

    def closure() -> torch.Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert parameter[0] < 1


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"weight_decay": -0.1}, {"eps": -1e-8}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="must"):
        RowwiseAdamW([nn.Parameter(torch.ones(1))], **wrong)


def test_biases_norms_and_one_dimension_per_task_do_not_decay():
    matrix, vector = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))
    wide, narrow = bank(2, 4), bank(4)
    groups = decay_groups([matrix, vector, wide, narrow], 0.1)
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [found[id(p)] for p in (matrix, vector, wide, narrow)] == [0.1, 0.0, 0.1, 0.0]


def test_only_optimizers_that_move_still_slices_are_named():
    stacked, plain = bank(2), nn.Parameter(torch.ones(2))
    assert not moves_absent(RowwiseAdamW([stacked]))
    assert not moves_absent(torch.optim.AdamW([plain]))
    assert not moves_absent(torch.optim.SGD([stacked], lr=0.1))
    assert not moves_absent(torch.optim.AdamW([bank(2, names=("alone",))]))
    assert moves_absent(torch.optim.AdamW([plain, stacked]))
    assert moves_absent(torch.optim.SGD([stacked], lr=0.1, momentum=0.9))


@pytest.mark.parametrize("limit", [0.5, 1e6, None])
def test_joint_clipping_is_torchs(limit):
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4), torch.randn(5)]
    ours = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    theirs = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for a, b, g in zip(ours, theirs, gradients, strict=True):
        a.grad, b.grad = g.clone(), g.clone()
    norm = clip_joint([*ours, nn.Parameter(torch.zeros(2))], limit)
    wanted = torch.nn.utils.clip_grad_norm_(theirs, limit or 1e9)
    assert norm == pytest.approx(float(wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_joint_clipping_tells_what_is_not_finite_and_leaves_it():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, torch.inf])
    assert clip_joint([parameter], 1.0) == torch.inf
    assert parameter.grad[0] == 1.0


def test_slices_are_clipped_each_by_its_own_norm():
    one, two = bank(3), bank(2, 2)
    for parameter in (one, two):
        parameter.grad = torch.randn_like(parameter) * torch.tensor([0.01, 1.0, 9.0]).view(
            -1, *[1] * (parameter.ndim - 1)
        )
    before = [p.grad.clone() for p in (one, two)]
    norms = clip_slices([one, two], 1.0, NAMES)
    for i in range(3):
        row = torch.cat([g[i].flatten() for g in before])
        assert norms[i] == pytest.approx(float(row.norm()))
        clipped = torch.cat([p.grad[i].flatten() for p in (one, two)])
        torch.testing.assert_close(
            clipped, row * min(1.0, 1 / float(row.norm())), rtol=1e-5, atol=0
        )


def test_clipping_by_task_needs_slices_everywhere():
    with pytest.raises(ValueError, match=r"shape \(2,\) is not"):
        clip_slices([nn.Parameter(torch.zeros(2))], 1.0, NAMES)
