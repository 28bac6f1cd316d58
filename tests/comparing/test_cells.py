from __future__ import annotations

import pytest
from studies import dataset, plan

from plait.comparing.cells import Cell, make, ordered
from plait.comparing.plan import Plan
from plait.method import resolve


@pytest.fixture(scope="module")
def base() -> Plan:
    return plan(dataset())


def key(plan: Plan, spelled: object, seed: int = 0) -> str:
    return make(plan, resolve("strategy", spelled), seed).key


def test_a_key_depends_on_what_the_result_depends_on(base: Plan) -> None:
    joint = key(base, "joint")
    assert key(base, {"joint": {"balancing": "equal"}}) == joint  # the default, spelled out
    assert key(base, "joint", seed=1) != joint
    assert key(base, {"joint": {"balancing": "uncertainty"}}) != joint
    assert key(base.trained_with(passes=3), "joint") != joint
    assert key(base.trained_with(device="cpu"), "joint") == joint
    assert key(plan(dataset(100)), "joint") != joint


def test_plain_baselines_do_not_depend_on_how_networks_are_trained(base: Plan) -> None:
    other = base.trained_with(passes=3)
    assert key(base, "prior") == key(other, "prior")
    assert key(base, "prior", seed=1) == key(base, "prior")
    assert key(base, "forest") == key(other, "forest")
    assert key(base, "forest", seed=1) != key(base, "forest")


def test_a_merge_shares_its_start_with_its_experts(base: Plan) -> None:
    merge = make(base, resolve("strategy", "merge"), 0)
    average = make(base, resolve("strategy", {"merge": "average"}), 0)
    cells = ordered([merge, average])
    names = [cell.strategy.card.name for cell in cells]
    assert names == ["warm_up", "experts", "merge", "merge"]
    assert merge.parts["start"].key == merge.parts["experts"].parts["start"].key
    assert merge.parts["experts"].key == average.parts["experts"].key


def test_parts_come_before_what_needs_them(base: Plan) -> None:
    cells = ordered(
        make(base, resolve("strategy", name), 0) for name in ("adapt", "merge", "joint")
    )
    seen: set[str] = set()
    for cell in cells:
        assert all(part.key in seen for part in cell.parts.values())
        seen.add(cell.key)
    assert len(seen) == len(cells)


def test_the_description_is_plain(base: Plan) -> None:
    cell: Cell = make(base, resolve("strategy", {"merge": {"average": {}}}), 3)
    told = cell.describe()
    assert told["strategy"] == {"merge": {"average": {}}}
    assert told["seed"] == 3
    assert set(told["parts"]) == {"start", "experts"}
