"""The laws of a training, for every balancer and for a changed step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from training_toys import BALANCERS, Deck, furthest, make_network, slices

from plait.balancing.equal import Equal
from plait.balancing.famo import Famo
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.batch import Batch
from plait.networks import Network
from plait.networks.side_by_side import build_side_by_side
from plait.task import TaskSet
from plait.testing.toys import toy_inputs
from plait.training import EventLog, RowwiseAdamW, TrainingError, fit
from plait.training.optim import decay_groups
from plait.training.procedures.plain import Plain
from plait.training.procedures.task_sam import TaskSam
from plait.training.schedules import cosine

PROCEDURES = (Plain, TaskSam)
every_balancer = pytest.mark.parametrize("make", BALANCERS)
every_procedure = pytest.mark.parametrize("procedure", PROCEDURES)


def trained(network: Network, deck: Deck, make=Equal, **given) -> dict[str, torch.Tensor]:
    given = {"steps": 6, "clip": 1.0, **given}
    optimizer = RowwiseAdamW(decay_groups(network.parameters(), 0.1), lr=0.01)
    fit(network, deck, make(), optimizer, **given)
    return slices(network)


class Changed(Deck):
    """A deck whose batches are changed before anyone sees them."""

    change = staticmethod(lambda batch: batch)

    def batch(self, step: int) -> Batch:
        return self.change(super().batch(step))


# -- exactness -------------------------------------------------------------------------------------


@every_procedure
@every_balancer
def test_micro_batches_give_the_same_network(tasks, deck, make, procedure):
    whole = trained(make_network(tasks), deck, make, procedure=procedure())
    for pieces in (2, 4, 8):
        cut = trained(make_network(tasks), deck, make, procedure=procedure(), micro_batches=pieces)
        assert furthest(whole, cut) < 1e-10, pieces


@every_procedure
@every_balancer
def test_a_missing_label_is_the_row_removed_for_that_task(tasks, make, procedure):
    """The task's records point at rows of their own: none exists where its label is missing."""

    def apart(batch: Batch) -> Batch:
        part, labels, start = batch.parts["table"]["numeric"], {}, 0
        rows = []
        for key, found in batch.labels.items():
            rows.append(part[found.rows])
            labels[key] = replace(found, rows=torch.arange(start, start + len(found)))
            start += len(found)
        parts = {"table": {"numeric": torch.cat(rows)}}
        return replace(batch, parts=parts, labels=labels, ids=torch.arange(start))

    deck, other = Deck(tasks), Changed(tasks)
    other.change = apart
    one = trained(make_network(tasks), deck, make, procedure=procedure(), steps=1)
    two = trained(make_network(tasks), other, make, procedure=procedure(), steps=1)
    assert furthest(one, two) < 1e-12


@every_procedure
@every_balancer
def test_an_absent_task_is_as_if_unknown_and_untouched(tasks, make, procedure):
    gone = "binary.2"
    fewer = tasks.subset([name for name in tasks.names if name != gone])
    network, balancer = make_network(tasks), make()
    start = slices(network)
    balancer.bind(tasks.names)
    optimizer = RowwiseAdamW(decay_groups(network.parameters(), 0.1), lr=0.01)
    given = {"procedure": procedure(), "clip": 1.0}
    fit(network, Deck(tasks), balancer, optimizer, steps=3, **given)
    before, state = slices(network), balancer.state_dict()
    moments = _moments(network, optimizer, gone)
    fit(network, Deck(tasks, missing=lambda _: [gone]), balancer, optimizer, steps=3, **given)
    after = slices(network)
    for name in after:
        changed = not torch.equal(after[name], before[name])
        assert changed != name.endswith(f"/{gone}"), name
    for old, new in zip(moments, _moments(network, optimizer, gone), strict=True):
        assert torch.equal(old, new)
    for name, value in balancer.state_dict().items():
        if name.endswith(f"/{gone}"):
            assert torch.equal(value, state[name]), name

    absent = trained(make_network(tasks), Deck(tasks, missing=lambda _: [gone]), make, **given)
    unknown = trained(make_network(fewer), Deck(tasks), make, **given)
    assert furthest({n: absent[n] for n in unknown}, unknown) < 1e-12
    assert all(torch.equal(absent[n], start[n]) for n in absent if n not in unknown)


def _moments(network: Network, optimizer: RowwiseAdamW, task: str) -> list[torch.Tensor]:
    found = []
    for parameter in network.parameters():
        names, state = getattr(parameter, "plait_tasks", ()), optimizer.state[parameter]
        if task in names:
            place = names.index(task)
            steps = state["step"].expand(len(names))
            found += [state["exp_avg"][place].clone(), state["exp_avg_sq"][place].clone()]
            found.append(steps[place].clone().double())
    assert found
    return found


@every_procedure
@every_balancer
def test_tasks_in_another_order_give_the_same_network(tasks, make, procedure):
    turned = TaskSet([tasks[i] for i in (3, 0, 4, 2, 1)])
    one = trained(make_network(tasks), Deck(tasks), make, procedure=procedure())
    two = trained(make_network(turned), Deck(tasks), make, procedure=procedure())
    assert furthest(one, two) < 1e-11


def test_it_is_the_loop_written_by_hand(tasks, deck):
    ours = trained(make_network(tasks), deck, steps=10)
    network = make_network(tasks)
    optimizer = RowwiseAdamW(decay_groups(network.parameters(), 0.1), lr=0.01)
    for step in range(10):
        batch = deck.batch(step)
        outputs = network(batch.parts, batch.labels)
        total = 0
        for task in tasks:
            labels = batch.labels[task.group]
            mine = labels.task == tasks.groups[task.group].position[task.name]
            raw = outputs.raw[task.group][mine]
            loss = {
                "bce": lambda r, y: nn.functional.binary_cross_entropy_with_logits(r[:, 0], y),
                "squared": lambda r, y: (r[:, 0] - y).square().mean(),
                "cross_entropy": nn.functional.cross_entropy,
                "poisson": lambda r, y: (
                    torch.xlogy(y, y) - y * r[:, 0] - y + r[:, 0].exp()
                ).mean(),
            }[task.loss]
            total = total + loss(raw, labels.target[mine])
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert furthest(ours, slices(network)) < 1e-12


# -- randomness ------------------------------------------------------------------------------------


def test_dropout_is_keyed_by_seed_and_step_and_the_global_state_is_kept(tasks, deck):
    def run(seed: int, disturb: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(disturb)
        before = torch.get_rng_state()
        found = trained(make_network(tasks, dropout=0.5), deck, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        return found

    assert furthest(run(1, 5), run(1, 6)) == 0
    assert furthest(run(1, 5), run(2, 5)) > 1e-4


def test_the_second_look_has_the_first_ones_dropout_mask_and_the_next_step_another(tasks):
    network, seen = make_network(tasks, dropout=0.5), []

    class Still(Famo.__mro__[1]):
        card, second_look = Famo.card, True

        def forward(self, s):
            return torch.ones_like(s.losses)

        def advance(self, s, after=None):
            seen.append((s.losses, after))

    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    fit(network, Deck(tasks, steps=1), Still(), optimizer, steps=2)
    for first, again in seen:
        assert torch.equal(first, again)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_looking_again_moves_no_running_statistics(tasks, deck):
    found = []
    for make, procedure in ((Equal, Plain()), (Famo, Plain()), (Equal, TaskSam(rho=0.0))):
        network = make_network(tasks)
        network.trunk.encoder.trunk.layers.append(nn.BatchNorm1d(8).double())
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        fit(network, deck, make(), optimizer, steps=4, procedure=procedure)
        found.append(network.trunk.encoder.trunk.layers[-1].running_mean.clone())
    assert found[0].any()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# -- what is not finite ----------------------------------------------------------------------------


def broken(task: str, value: float = float("nan"), steps=range(1, 3)) -> type[Deck]:
    class Broken(Deck):
        def batch(self, step: int) -> Batch:
            batch = super().batch(step)
            if step in steps:
                key = self.tasks[task].group
                labels = batch.labels[key]
                mine = labels.task == self.tasks.groups[key].position[task]
                target = torch.where(mine, value, labels.target.double())
                labels = {**batch.labels, key: replace(labels, target=target)}
                batch = replace(batch, labels=labels)
            return batch

    return Broken


@every_procedure
@every_balancer
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_broken_task_sits_the_step_out_as_if_absent(tasks, make, procedure, pieces):
    given = {"procedure": procedure(), "micro_batches": pieces}
    absent = Deck(tasks, missing=lambda step: ["real.1"] if step in (1, 2) else [])
    wanted = trained(make_network(tasks), absent, make, **given)
    found = trained(make_network(tasks), broken("real.1")(tasks), make, **given)
    assert furthest(wanted, found) == 0


def test_a_step_that_is_repeated_moves_running_statistics_once(tasks):
    absent = Deck(tasks, missing=lambda step: ["real.1"] if step in (1, 2) else [])
    found = []
    for deck in (absent, broken("real.1")(tasks)):
        network = make_network(tasks)
        network.trunk.encoder.trunk.layers.append(nn.BatchNorm1d(8).double())
        fit(network, deck, steps=4)
        found.append(network.trunk.encoder.trunk.layers[-1].running_mean.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("make", [Equal, PCGrad])
def test_a_gradient_that_overflows_while_the_loss_does_not_is_found(tasks, make):
    """The trunk's slope is infinite on the rows of one task only."""
    deck, network = Deck(tasks), make_network(tasks)
    absent = Deck(tasks, missing=lambda step: ["real.1"] if step == 1 else [])
    wanted = trained(make_network(tasks), absent, make)

    class Cliff(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, on):
            ctx.on = on
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.inf if ctx.on else grad, None

    forward, looks = network.heads.forward, []

    def cliff(features, asked):
        raw = forward(features, asked)
        if "real" in raw:
            looks.append(1)
            raw["real"] = Cliff.apply(raw["real"], len(looks) in (2, 3, 4))
        return raw

    network.heads.forward = cliff
    log = EventLog()
    found = trained(network, deck, make, observers=[log])
    assert furthest(wanted, found) == 0
    dropped = [e for e in log.events if e["event"] == "dropped"]
    assert [(e["task"], e["step"]) for e in dropped] == [("real.1", 2)]


def test_it_is_counted_logged_and_named_and_stops_after_so_many_in_a_row(tasks):
    log, network = EventLog(), make_network(tasks)
    deck = broken("counts.4", steps=(1, 2, 4))(tasks)
    run = fit(network, deck, steps=6, bad_steps=3, observers=[log])
    assert run.skipped == {"counts.4": 3}
    dropped = [e for e in run.history if e["event"] == "dropped"]
    assert [e["step"] for e in dropped] == [2, 3, 5]
    rows = deck.batch(1).task("counts.4").rows[:10].tolist()
    assert dropped[0]["rows"] == rows
    with pytest.raises(TrainingError, match=r"'counts.4': .* in 3 of its steps in a row.*step 4"):
        fit(network, broken("counts.4", steps=range(1, 9))(tasks), steps=6, bad_steps=3)


def test_when_every_task_is_broken_nothing_moves(tasks):
    class Hopeless(Deck):
        def batch(self, step: int) -> Batch:
            batch = super().batch(step)
            return replace(batch, parts={"table": {"numeric": torch.full((24, 4), torch.nan)}})

    network = make_network(tasks)
    before = slices(network)
    log = EventLog(every=1)
    run = fit(network, Hopeless(tasks), steps=2, observers=[log])
    assert furthest(before, slices(network)) == 0
    assert set(run.skipped) == set(tasks.names)
    assert [e["losses"] for e in log.events if e["event"] == "step"] == [{}, {}]


# -- optimizers, schedules, precision --------------------------------------------------------------


def test_a_plain_optimizer_is_refused_before_anything_is_computed(tasks):
    network = make_network(tasks)
    before = slices(network)
    deck = Deck(tasks, missing=lambda step: ["real.1", "binary.2"] if step == 4 else [])
    with pytest.raises(ValueError, match=r"AdamW would move.*\(binary.2, real.1\).*RowwiseAdamW"):
        fit(network, deck, optimizer=torch.optim.AdamW(network.parameters()), steps=6)
    assert furthest(before, slices(network)) == 0
    fit(network, deck, optimizer=torch.optim.SGD(network.parameters(), lr=0.1), steps=6)
    fit(network, Deck(tasks), optimizer=torch.optim.AdamW(network.parameters()), steps=2)


def test_the_schedule_scales_each_groups_own_rate(network, deck):
    rates, parameters = [], list(network.parameters())
    groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.2}]
    optimizer = RowwiseAdamW(groups)

    def look(problem, signals):
        rates.append([group["lr"] for group in optimizer.param_groups])

    fit(network, deck, optimizer=optimizer, steps=4, schedule=cosine(4), observers=[look])
    assert [a for a, _ in rates] == pytest.approx([0.1 * cosine(4)(i) for i in range(4)])
    assert [b / a for a, b in rates] == pytest.approx([2.0] * 4)


def test_forwards_in_bfloat16_keep_losses_and_parameters_wide(tasks):
    network, seen = make_network(tasks).float(), []
    deck = Deck(tasks, dtype=torch.float32)
    log = [lambda problem, signals: seen.append(signals.losses.dtype)]
    fit(network, deck, PCGrad(), steps=3, autocast=True, observers=log)
    assert set(seen) == {torch.float32}
    assert all(p.dtype == torch.float32 for p in network.parameters())
    exact = make_network(tasks).float()
    fit(exact, deck, PCGrad(), steps=3)
    assert 0 < furthest(slices(network), slices(exact)) < 0.01


# -- validation ------------------------------------------------------------------------------------


def test_the_best_weights_come_back_and_patience_ends_it(network, deck):
    kept, scores = [], iter([3.0, 1.0, 2.0, 1.5, 9.0])

    def validate(net: Network) -> dict[str, float]:
        kept.append(slices(net))
        return {"real.1": next(scores), "binary.0": 0.0}

    run = fit(network, deck, steps=60, validate=validate, validate_every=4, patience=2)
    assert run.stopped == "patience"
    assert (run.step, run.best_step) == (16, 8)
    assert furthest(slices(network), kept[1]) == 0
    assert run.losses == {"real.1": 1.5, "binary.0": 0.0}
    assert [e["step"] for e in run.history] == [4, 8, 12, 16]
    assert network.training


def test_last_weights_are_kept_when_asked_for(network, deck):
    scores = iter([1.0, 2.0, 3.0])
    seen = []

    def validate(net: Network) -> dict[str, float]:
        seen.append(slices(net))
        return {"real.1": next(scores)}

    run = fit(network, deck, steps=6, validate=validate, validate_every=2, keep_best=False)
    assert run.best_step is None
    assert furthest(slices(network), seen[-1]) == 0


def test_validation_comes_once_a_pass_and_at_the_end(network, deck):
    steps = []
    fit(network, deck, steps=15, validate=lambda _: steps.append(1) or {"real.1": 1.0})
    assert len(steps) == 3  # after 6, 12 and 15


def test_a_time_limit_ends_it(network, deck):
    run = fit(network, deck, steps=1_000_000, time_limit=0.3)
    assert run.stopped == "time"
    assert run.seconds >= 0.3
    assert 0 < run.step < 1_000_000


def test_side_by_side_equals_each_task_trained_alone(tasks):
    """Clipping, patience and the best weights are each task's own."""
    reals = TaskSet(replace(tasks["real.1"], name=f"r{i}") for i in range(3))
    scores = {"r0": [3.0, 1.0, 2.0, 2.5], "r1": [1.0, 2.0, 3.0, 0.0], "r2": [4.0, 3.0, 2.0, 1.0]}
    encoder = {"trunk": {"mlp": {"width": 8, "depth": 1}}}
    deck = Deck(reals)

    def run(names: list[str]) -> tuple[dict[str, torch.Tensor], object]:
        chosen = reals.subset(names)
        network = build_side_by_side(
            inputs=toy_inputs(), tasks=chosen, encoder=encoder, seed=0
        ).double()
        optimizer = RowwiseAdamW(network.parameters(), lr=0.05)
        told = iter(range(4))

        def validate(_: Network) -> dict[str, float]:
            at = next(told)
            return {name: scores[name][at] for name in names}

        given = {"clip": 0.3, "validate": validate, "validate_every": 3, "patience": 2}
        found = fit(network, deck, optimizer=optimizer, steps=12, per_task=True, **given)
        return slices(network), found

    together, ended = run(["r0", "r1", "r2"])
    assert ended.stopped == "steps"
    for name in reals.names:
        alone, told = run([name])
        assert furthest({n: together[n] for n in alone}, alone) < 1e-12, name
        assert told.best_step == {"r0": 6, "r1": 3, "r2": 12}[name]


def test_uncertainty_learns_while_fitting(network, deck):
    balancer = Uncertainty(rate=0.1)
    fit(network, deck, balancer, steps=30)
    assert balancer.log_variance.unique().numel() > 1
    assert int(balancer.updates) == 30
