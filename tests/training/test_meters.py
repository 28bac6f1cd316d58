"""The meter against gradients taken task by task, and closed forms of what it tells."""

from __future__ import annotations

import pytest
import torch
from training_toys import Deck, make_network

from plait.balancing.equal import Equal
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.training import ConflictMeter, EventLog, fit
from plait.training.meters import agreement
from plait.training.observers import Observer


def of(vectors: list[list[float]]) -> dict[str, float | None]:
    rows = torch.tensor(vectors, dtype=torch.float64)
    return agreement(rows @ rows.T)


def kinds(log: EventLog, kind: str) -> list[dict[str, object]]:
    return [event for event in log.events if event["event"] == kind]


def test_two_gradients_give_the_measures_of_the_papers() -> None:
    one, two = torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 1.0])
    cosine = -1 / 2**0.5
    found = of([one.tolist(), two.tolist()])
    assert found["cosine"] == pytest.approx(cosine, rel=1e-5)
    assert found["share"] == 1.0
    assert found["similarity"] == pytest.approx(2 * 3 * 2**0.5 / (9 + 2), rel=1e-5)
    apart, along = float((one - two).square().sum()), float((one + two).square().sum())
    assert found["curvature"] == pytest.approx((1 - cosine**2) * apart / along, rel=1e-5)
    values = torch.linalg.svdvals(torch.stack([one, two])).square()
    assert found["condition"] == pytest.approx(float(values[0] / values[1]), rel=1e-5)


def test_equal_opposite_and_missing_gradients_leave_what_they_do_not_define_out() -> None:
    assert of([[1.0, 2.0], [1.0, 2.0]])["condition"] == pytest.approx(1.0)  # one direction
    assert of([[1.0, 0.0], [-1.0, 0.0]])["curvature"] is None
    assert of([[0.0, 0.0], [1.0, 0.0]]) == {}
    assert of([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])["cosine"] == pytest.approx(0.5**0.5, rel=1e-5)


@pytest.mark.parametrize("make", [PCGrad, GradDrop, Uncertainty])
def test_the_meter_reads_or_takes_the_gradients(tasks, make) -> None:
    log, network, wanted = EventLog(every=100), make_network(tasks), []

    def by_hand(problem, signals):
        rows = [torch.cat([g.flatten() for g in problem.alone(i)[:2]]) for i in range(5)]
        wanted.append(torch.stack(rows).double())

    still = torch.optim.SGD(network.parameters(), lr=0.0)
    meter = ConflictMeter(log, every=3, refresh=3, rows=None)
    fit(network, Deck(tasks), make(), still, steps=6, observers=[by_hand, meter])
    seen = kinds(log, "conflict")
    assert [e["step"] for e in seen] == [3, 6]
    above = torch.triu(torch.ones(5, 5), 1).bool()
    cosines = []
    for event in seen:
        rows = wanted[event["step"] - 1]
        unit = torch.nn.functional.normalize(rows, dim=1)
        cosines.append((unit @ unit.T)[above])
        assert event["cosine"] == pytest.approx(float(cosines[-1].mean()), abs=1e-5)
        assert event["share"] == pytest.approx(float((cosines[-1] < 0).double().mean()), abs=1e-5)
        values = torch.linalg.svdvals(rows).square()
        assert event["condition"] == pytest.approx(float(values[0] / values[-1]), rel=1e-3)
    norms = kinds(log, "gradients")
    assert [e["step"] for e in norms] == [3, 6]
    for event in norms:
        lengths = wanted[event["step"] - 1].norm(dim=1).tolist()
        assert list(event["norms"].values()) == pytest.approx(lengths, rel=1e-4)
    (pairs,) = kinds(log, "cosines")
    assert (pairs["step"], pairs["looks"]) == (6, 2)
    assert pairs["tasks"] == list(norms[0]["norms"])
    assert set(pairs["tasks"]) == set(tasks.names)
    assert pairs["above"] == pytest.approx(torch.stack(cosines).mean(0).tolist(), abs=6e-4)


def test_windows_hold_means_and_the_last_is_told_at_the_end(tasks) -> None:
    log = EventLog(every=100)
    fit(
        make_network(tasks),
        Deck(tasks),
        PCGrad(),
        steps=10,
        observers=[ConflictMeter(log, every=1)],
    )
    assert [e["step"] for e in kinds(log, "gradients")] == list(range(1, 11))
    assert [(e["step"], e["looks"]) for e in kinds(log, "cosines")] == [
        (3, 3),
        (6, 3),
        (9, 3),
        (10, 1),
    ]
    assert log.events[-1]["event"] == "cosines"


def test_an_absent_task_has_no_norm_and_no_cosine(tasks) -> None:
    log = EventLog(every=100)
    deck = Deck(tasks, missing=lambda step: ["real.1"])
    fit(make_network(tasks), deck, PCGrad(), steps=2, observers=[ConflictMeter(log, every=1)])
    assert all("real.1" not in e["norms"] for e in kinds(log, "gradients"))
    assert all("real.1" not in e["tasks"] for e in kinds(log, "cosines"))
    assert all(len(e["above"]) == 6 for e in kinds(log, "cosines"))


def test_at_most_so_many_tasks_are_taken_and_in_time_all(tasks) -> None:
    log, looks = EventLog(every=100), []

    class Each(Observer):
        def event(self, event):
            if event["event"] == "gradients":
                looks.append(tuple(event["norms"]))

    meter = ConflictMeter(log, Each(), refresh=1, most=2)
    fit(make_network(tasks), Deck(tasks), Equal(), steps=12, observers=[meter])
    assert {len(names) for names in looks} == {2}
    assert {name for names in looks for name in names} == set(tasks.names)


def test_looking_at_gradients_changes_no_training(tasks) -> None:
    found = []
    meters = [
        [],
        [ConflictMeter(EventLog(), refresh=2)],
        [ConflictMeter(EventLog(), refresh=1, rows=None, most=None)],
    ]
    for observers in meters:
        network = make_network(tasks, dropout=0.3)
        fit(network, Deck(tasks), steps=6, observers=observers)
        found.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
