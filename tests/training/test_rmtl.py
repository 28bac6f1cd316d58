from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stepping import ground_of, losses_at, stepped, values_of
from training_toys import Deck, furthest, make_network

from plait.balancing.base import Signals
from plait.balancing.pcgrad import PCGrad
from plait.testing.toys import toy_tasks
from plait.training import fit
from plait.training.procedures.base import Problem
from plait.training.procedures.critics import Critics, Moves
from plait.training.procedures.plain import Plain
from plait.training.procedures.rmtl import Rmtl
from plait.training.procedures.sessions import following, moves_of


def learnt(moves: Moves, discount: float, steps: int, rate: float) -> torch.Tensor:
    """What a critic says of the moves after so many steps on them."""
    critics, told = Critics(["a"], hidden=32), Signals.of({"a": 1.0})
    for step in range(steps):
        critics.propose(replace(told, step=step), 0, {"a": moves}, discount, rate)
        critics.settle()
    return critics.values(told, 0, {"a": moves})["a"]


def test_with_sessions_of_one_row_a_critic_learns_the_reward():
    found = Moves(
        torch.eye(4), torch.tensor([0.3, 0.4, 0.6, 0.5]), torch.tensor([1.0, 1, 0, 0]),
        torch.full((4,), -1),
    )  # fmt: skip
    torch.testing.assert_close(learnt(found, 0.9, 300, 0.02), found.reward, rtol=0, atol=0.02)


def test_a_constant_reward_without_end_is_worth_r_over_one_minus_gamma():
    """Every move leads to the next, the last to the first; the action is always the same."""
    ring = torch.roll(torch.arange(4), -1)
    found = Moves(torch.zeros(4, 3), torch.full((4,), 0.6), torch.ones(4), ring)
    wanted = float(torch.tensor(0.6).log()) / (1 - 0.8)
    assert learnt(found, 0.8, 400, 0.03).tolist() == pytest.approx([wanted] * 4, rel=0.02)


def test_rewards_and_weights_are_those_of_the_paper():
    found = Moves(
        torch.zeros(4, 1), torch.tensor([0.9, 0.2, 1.0, 1.0]), torch.tensor([1.0, 0, 0, 1]),
        torch.full((4,), -1),
    )  # fmt: skip
    wanted = torch.tensor([0.9, 0.8, 1e-4, 1 - 1e-4]).log()
    torch.testing.assert_close(found.reward, wanted, rtol=1e-3, atol=1e-6)
    uneven = replace(found, label=torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(uneven.weight, torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3]))


def test_moves_follow_one_another_inside_a_session_in_the_order_of_rows():
    ids = torch.tensor([7, 3, 5, 9, 4])
    session = torch.tensor([1, 0, 1, 0, 1])
    assert following(ids, session).tolist() == [-1, 3, 0, -1, 2]
    assert following(ids, torch.full((5,), -1)).tolist() == [-1] * 5


def with_sessions(batch, size=4):
    labels = {key: replace(found, group=found.rows // size) for key, found in batch.labels.items()}
    return replace(batch, labels=labels)


@pytest.fixture
def trained_critics(tasks):
    """A ground whose critics have learnt for some steps, before the fine-tuning."""
    network, method = make_network(tasks), Rmtl(warm_up=0, critic_steps=30, rate=0.02, polish=0.8)
    ground = ground_of(network, method)
    deck = Deck(tasks)
    for step in range(30):
        _, found = stepped(ground, method, with_sessions(deck.batch(step)), step=step)
        assert not found  # the network rests
    return ground, method


def test_fine_tuning_weighs_rows_and_keeps_the_mean(tasks, trained_critics):
    """mean_rows (1 − λQ)·BCE of binary tasks, the others' losses as ever."""
    ground, method = trained_critics
    batch = with_sessions(Deck(tasks).batch(0))
    problem = Problem(ground, batch, 30)
    found = moves_of(problem, {"binary.0", "binary.2"})
    told = replace(Signals.of(dict.fromkeys(found, 1.0)), step=30)
    values = ground.memory.values(told, 1, found)
    assert all((value <= 0).all() and value.std() > 0.01 for value in values.values())
    network = ground.network
    given = values_of(network)
    total = sum(v for n, v in losses_at(network, given, batch).items() if n not in values)
    raw = torch.func.functional_call(network, given, (batch.parts, batch.labels)).raw["binary"][
        :, 0
    ]
    labels = batch.labels["binary"]
    for name, value in values.items():
        place = batch.tasks.groups["binary"].position[name]
        mine = labels.task == place
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            raw[mine], labels.target[mine], reduction="none"
        )
        total = total + ((1 - 0.8 * value) * entropy).mean()
    wanted = dict(zip(given, torch.autograd.grad(total, list(given.values())), strict=True))
    signals, filled = stepped(ground, method, batch, step=30)
    assert furthest(wanted, filled) < 1e-6
    plain, _ = stepped(ground_of(network, Plain()), Plain(), batch)
    torch.testing.assert_close(signals.losses, plain.losses)


def test_micro_batches_are_exact_in_every_phase(tasks, trained_critics):
    ground, method = trained_critics
    batch = with_sessions(Deck(tasks).batch(0))
    _, whole = stepped(ground, method, batch, PCGrad(), step=30)
    ground.micro_batches = 3
    _, cut = stepped(ground, method, batch, PCGrad(), step=30)
    assert furthest(whole, cut) < 1e-9


def test_a_missing_label_is_the_row_removed_for_that_task(tasks, trained_critics):
    ground, method = trained_critics
    batch = with_sessions(Deck(tasks, rows=30).batch(0)).only({"binary.0"})
    rows = torch.unique(batch.task("binary.0").rows)
    _, one = stepped(ground, method, batch, step=30)
    _, two = stepped(ground, method, batch.rows(rows), step=30)
    assert furthest(one, two) < 1e-9


def test_without_polish_it_is_plain_training(tasks, trained_critics):
    ground, _ = trained_critics
    batch = Deck(tasks).batch(0)
    method = Rmtl(warm_up=0, critic_steps=0, polish=0.0)
    _, none = stepped(ground, method, batch, step=30)
    _, plain = stepped(ground_of(ground.network, Plain()), Plain(), batch)
    assert furthest(plain, none) < 1e-12


def test_an_absent_task_keeps_its_critic(tasks):
    network, method = make_network(tasks), Rmtl(warm_up=0, critic_steps=5)
    ground = ground_of(network, method)
    deck = Deck(tasks, missing=lambda step: ["binary.2"] if step else [])
    stepped(ground, method, deck.batch(0), step=0)
    place = ground.memory.tasks.index("binary.2")
    before = ground.memory.live[place].clone()
    for step in (1, 2, 3):
        stepped(ground, method, deck.batch(step), step=step)
    assert torch.equal(ground.memory.live[place], before)
    assert ground.memory.steps.tolist() == [4.0, 1.0]


def test_it_resumes_bit_for_bit_through_all_its_phases(tasks, tmp_path):
    def run(folder, until=None):
        def watch(problem, signals):
            if problem.step == until:
                raise InterruptedError

        network = make_network(tasks)
        fit(
            network, Deck(tasks), steps=9, procedure=Rmtl(warm_up=2, critic_steps=4, rate=0.05),
            checkpoint=folder, checkpoint_every=1, observers=[watch],
        )  # fmt: skip
        return {n: p.detach() for n, p in network.named_parameters()}

    whole = run(None)
    for until in (3, 7):
        with pytest.raises(InterruptedError):
            run(tmp_path / str(until), until)
        assert furthest(whole, run(tmp_path / str(until))) == 0


def test_tasks_of_other_kinds_train_as_ever():
    tasks = toy_tasks(("real", "counts"))
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = Rmtl(warm_up=0, critic_steps=0)
    _, found = stepped(ground_of(network, method), method, batch, step=3)
    _, plain = stepped(ground_of(network, Plain()), Plain(), batch)
    assert furthest(plain, found) < 1e-12
    with pytest.raises(ValueError, match="polish must not be negative"):
        Rmtl(polish=-1)
