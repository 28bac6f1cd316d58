"""What a merger promises; run on small pools of numpy tensors."""

from __future__ import annotations

import json
from unittest.mock import patch

import numpy as np

from plait.merging.pool import Pool
from plait.method import Law, Need
from plait.testing.laws import Subject, Suite, declares, refusal
from plait.testing.pools import (
    any_count,
    base_state,
    blind,
    close,
    copies,
    difference,
    gap_of,
    have_for,
    in_files,
    keeps,
    made,
    merge,
    refused,
    times,
    toy,
    toy_pool,
    upcast,
)
from plait.weights.sources import State

suite = Suite()


@suite.law("one model, nothing scaled or dropped, comes back as it is", any_count)
def one_expert_is_returned(subject: Subject) -> None:
    pool = toy_pool(1)
    merged = merge(subject, pool, **subject.cls.neutral()).tensors
    floats = {name: value for name, value in merged.items() if value.dtype.kind == "f"}
    close(floats, {name: pool.models["m0"][name] for name in floats}, 1e-12)


@suite.law("equal models, nothing trimmed or dropped, merge to a multiple of their difference")
def equal_experts_keep_their_direction(subject: Subject) -> None:
    pool = toy_pool(1)
    expert = pool.models["m0"]
    same = Pool(copies(subject, expert), pool.base)
    merged = merge(subject, same, **subject.cls.neutral()).tensors
    whole, step = difference(merged, pool.base), difference(expert, pool.base)
    factor = float(whole @ step) / float(step @ step)
    gap = float(np.abs(whole - factor * step).max())
    assert factor > 0, f"the multiple is {factor:.3g}"
    assert gap <= 1e-10, f"off the models' difference by {gap:.3g}"


@suite.law("a task's own model is the expert where there is one expert", keeps)
def one_task_is_served_exactly(subject: Subject) -> None:
    pool = toy_pool(1)
    served = merge(subject, pool, **subject.cls.neutral()).tasks["m0"]
    expert = {name: pool.models["m0"][name] for name in served if name != "trunk.steps"}
    close({name: served[name] for name in expert}, expert, 1e-12)


@suite.law("every task is served a whole model, the same from memory and from files", keeps)
def tasks_are_served_whole(subject: Subject) -> None:
    pool = toy(subject, dtype="float32")
    merged = merge(subject, pool)
    assert list(merged.tasks) == list(pool.names), f"tasks {list(merged.tasks)}"
    with in_files(pool, shard=40) as (stored, sink):
        again = made(subject).merge(stored, have_for(subject, stored), sink=sink)
        for task, state in merged.tasks.items():
            assert list(state) == [site.name for site in pool.sites]
            close(again.tasks[task], state, 0.0)


@suite.law("merged from files into files, every bit is as in memory, for any workers and blocks")
def files_equal_memory(subject: Subject) -> None:
    for settings in subject.cls.examples():
        for dtype in ("float16", "float32"):
            pool = toy(subject, dtype=dtype)
            wanted = merge(subject, pool, **settings).tensors
            with in_files(pool, shard=40) as (stored, sink):
                have = have_for(subject, stored)
                merged = subject.make(**settings).merge(stored, have, sink=sink, workers=3)
                close(merged.tensors, wanted, 0.0)


@suite.law("cut into small blocks, the result is the same")
def blocks_are_free(subject: Subject) -> None:
    for settings in subject.cls.examples():
        wanted = merge(subject, toy(subject), **settings).tensors
        with patch("plait.merging.engine.BLOCK", 8), patch("plait.merging.results.BLOCK", 8):
            close(merge(subject, toy(subject), **settings).tensors, wanted, 1e-12)


@suite.law("models equal to the base merge to the base")
def no_change_gives_the_base(subject: Subject) -> None:
    base = base_state()
    pool = Pool(copies(subject, base), base)
    close(merge(subject, pool).tensors, base, 1e-12)


@suite.law(Law.PERMUTATION.value, declares(Law.PERMUTATION))
def order_of_models_is_free(subject: Subject) -> None:
    pool = toy(subject, 4)
    names = list(pool.names)
    turned = Pool({name: pool.models[name] for name in reversed(names)}, pool.base)
    close(merge(subject, pool).tensors, merge(subject, turned).tensors, 1e-12)


@suite.law("moving the base and all models by one step moves the result by that step", blind)
def translation(subject: Subject) -> None:
    pool = toy(subject)
    assert pool.base is not None
    step = {
        name: np.full(v.shape, 0.75 if v.dtype.kind == "f" else 0, v.dtype)
        for name, v in pool.base.items()
    }

    def moved(state: State) -> State:
        return {name: value + step[name] for name, value in state.items()}

    shifted = Pool({name: moved(state) for name, state in pool.models.items()}, moved(pool.base))
    close(merge(subject, shifted).tensors, moved(merge(subject, pool).tensors), 1e-12)


@suite.law("stretching all models' differences to the base stretches the merged difference", blind)
def stretching(subject: Subject) -> None:
    pool = toy(subject)
    base = pool.base
    assert base is not None

    def stretched(state: State) -> State:
        return {
            name: base[name] + 2 * (value - base[name]) if value.dtype.kind == "f" else value
            for name, value in state.items()
        }

    wide = Pool({name: stretched(state) for name, state in pool.models.items()}, base)
    close(merge(subject, wide).tensors, stretched(merge(subject, pool).tensors), 1e-11)


@suite.law("names, their order, shapes and types stay as they are")
def form_is_kept(subject: Subject) -> None:
    for dtype in ("float16", "float32", "float64"):
        pool = toy(subject, dtype=dtype)
        merged = merge(subject, pool).tensors
        assert pool.base is not None
        assert list(merged) == list(pool.base), f"names became {list(merged)}"
        for name, value in pool.base.items():
            found = merged[name]
            assert found.shape == value.shape, f"{name!r}: {found.shape}, was {value.shape}"
            assert found.dtype == value.dtype, f"{name!r}: {found.dtype}, was {value.dtype}"


@suite.law("integer tensors are copied from the base, not averaged")
def integers_are_copied(subject: Subject) -> None:
    pool = toy(subject)
    merged = merge(subject, pool).tensors
    assert pool.base is not None
    assert int(merged["trunk.steps"]) == int(pool.base["trunk.steps"]), (
        f"the counter became {merged['trunk.steps']}"
    )
    assert merged["trunk.steps"] is not pool.base["trunk.steps"], "the counter is shared"


@suite.law("sums are formed in float32 or better and rounded once")
def half_precision_rounds_once(subject: Subject) -> None:
    half = toy(subject, 8, dtype="float16")
    exact = Pool(
        {name: upcast(state) for name, state in half.models.items()}, upcast(half.base or {})
    )
    merged, wanted = merge(subject, half).tensors, merge(subject, exact).tensors
    for name, value in merged.items():
        if value.dtype.kind == "f" and value.size:
            right = wanted[name].astype("float16")
            # Half a unit in the last place where float32 sums sit on a rounding edge.
            off = np.abs(value.astype("float64") - wanted[name])
            allowed = np.abs(np.spacing(right)).astype("float64") * 0.51
            assert (off <= allowed).all(), f"{name!r} is off by {off.max():.3g} after rounding"


@suite.law("NaN and infinite weights are refused, the tensor and the model named")
def not_finite_is_refused(subject: Subject) -> None:
    for bad in (np.nan, np.inf):
        pool = toy(subject)
        spoilt = {name: dict(state) for name, state in pool.models.items()}
        last = pool.names[-1]
        weight = spoilt[last]["trunk.weight"].copy()
        weight[2, 1] = bad
        spoilt[last]["trunk.weight"] = weight
        said = refused(subject, spoilt, pool.base)
        assert "trunk.weight" in said, f"the tensor is not named: {said!r}"
        assert last in said, f"the model is not named: {said!r}"


@suite.law("models of other names or shapes are refused, the tensor named")
def mismatch_is_refused(subject: Subject) -> None:
    pool = toy(subject)
    lacking = {name: dict(state) for name, state in pool.models.items()}
    del lacking[pool.names[-1]]["trunk.bias"]
    assert "trunk.bias" in refused(subject, lacking, pool.base)
    bent = {name: dict(state) for name, state in pool.models.items()}
    bent["m0"]["trunk.weight"] = np.zeros((5, 4))
    assert "trunk.weight" in refused(subject, bent, pool.base)


@suite.law("without a declared need of a base, the base is not touched; with it, it is asked for")
def base_need_is_honest(subject: Subject) -> None:
    pool = toy(subject, base=False)
    if Need.BASE not in subject.cls.card.needs:
        merged = merge(subject, pool).tensors
        assert all(np.isfinite(value).all() for value in merged.values())
        return
    said = refusal(lambda: merge(subject, pool))
    assert Need.BASE.words in said, f"a pool without a base gave {said!r}"


@suite.law("without a declared need of validation rows, the method runs without them")
def validation_need_is_honest(subject: Subject) -> None:
    if Need.VALIDATION not in subject.cls.card.needs:
        merge(subject, toy(subject))
        return
    pool = toy(subject)
    said = refusal(lambda: merge(subject, pool, have_for(subject, pool, validation=None)))
    assert Need.VALIDATION.words in said, f"without validation rows it said {said!r}"


@suite.law("a free coefficient goes where validation is best", lambda s: "grid" in s.cls.accepted())
def search_finds_the_best(subject: Subject) -> None:
    pool = toy(subject)
    grid = subject.make().grid
    for wanted in (grid[1], grid[-2]):
        target = merge(subject, pool, scale=wanted).tensors
        have = have_for(subject, pool, validation=lambda state, aim=target: gap_of(state, aim)[0])
        merged = merge(subject, pool, have)
        close(merged.tensors, target, 1e-12)


@suite.law("the pool is left as it was")
def inputs_are_unmutated(subject: Subject) -> None:
    pool, twin = toy(subject), toy(subject)
    merged = merge(subject, pool).tensors
    for name in pool.names:
        close(pool.models[name], twin.models[name], 0.0)
    close(pool.base or {}, twin.base or {}, 0.0)
    for name, value in merged.items():
        for owner, state in (("the base", pool.base or {}), *pool.models.items()):
            assert not np.shares_memory(value, state[name]), f"{name!r} is a view of {owner}"


@suite.law("the same pool gives the same numbers, bit for bit")
def runs_repeat(subject: Subject) -> None:
    close(merge(subject, toy(subject)).tensors, merge(subject, toy(subject)).tensors, 0.0)
    method = made(subject)

    def run(pool: Pool) -> State:
        return method.merge(pool, have_for(subject, pool)).tensors

    once = run(toy(subject))
    run(toy(subject, seed=5))
    close(run(toy(subject)), once, 0.0)


@suite.law("the layout of a tensor in memory changes nothing")
def memory_layout_is_free(subject: Subject) -> None:
    pool = toy(subject)

    def turned(state: State) -> State:
        return {name: np.asfortranarray(value) for name, value in state.items()}

    odd = Pool(
        {name: turned(state) for name, state in pool.models.items()}, turned(pool.base or {})
    )
    close(merge(subject, odd).tensors, merge(subject, pool).tensors, 1e-12)


@suite.law("weights of any size merge to finite weights of that size", blind)
def any_size_is_finite(subject: Subject) -> None:
    for size in (1e-8, 1.0, 1e8):
        pool = toy(subject)
        wide = Pool(
            {name: times(state, size) for name, state in pool.models.items()},
            times(pool.base or {}, size),
        )
        merged = merge(subject, wide).tensors
        close(
            {k: v / size for k, v in merged.items() if v.dtype.kind == "f"},
            {k: v for k, v in merge(subject, pool).tensors.items() if v.dtype.kind == "f"},
            1e-9,
        )


@suite.law("what is found on the way is plain data")
def evidence_is_plain(subject: Subject) -> None:
    pool = toy(subject)
    merged = merge(subject, pool, have_for(subject, pool, validation=lambda _: 1.0))
    json.dumps(dict(merged.evidence), allow_nan=False)


@suite.law("an empty pool is refused")
def empty_pool_is_refused(subject: Subject) -> None:
    assert refused(subject, {}, base_state()), "no model, and no complaint"


def golden(subject: Subject) -> dict[str, list[float]]:
    """The merged tensors of the toy pool."""
    merged = merge(subject, toy(subject)).tensors
    return {name: np.ravel(value).astype(float).tolist() for name, value in merged.items()}
