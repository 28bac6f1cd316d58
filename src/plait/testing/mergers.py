"""What a merger promises; run on small pools of numpy tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from plait.merging.base import Have, Merged
from plait.merging.pool import Array, Pool
from plait.method import Law, Need
from plait.testing.laws import Subject, Suite, declares, refusal
from plait.weights.checkpoints import open_checkpoint
from plait.weights.folders import Folder
from plait.weights.sources import State
from plait.weights.states import write_state

suite = Suite()


def base_state(dtype: str = "float64", seed: int = 0) -> dict[str, Array]:
    """A checkpoint with a matrix, a vector, a number, an empty tensor and a counter."""
    draw = np.random.default_rng(seed)
    state: dict[str, Array] = {
        "trunk.weight": draw.normal(size=(5, 3)).astype(dtype),
        "trunk.bias": draw.normal(size=5).astype(dtype),
        "trunk.scale": np.asarray(draw.normal(), dtype),
        "trunk.empty": np.zeros((0, 3), dtype),
        "trunk.steps": np.asarray(7 + seed, "int64"),
    }
    return state


def toy_pool(models: int = 3, *, dtype: str = "float64", base: bool = True, seed: int = 0) -> Pool:
    """A base and models that each lie a small random step away from it; counters differ."""
    start = base_state(dtype, seed)
    found: dict[str, State] = {}
    for number in range(models):
        draw = np.random.default_rng(seed + 100 + number)
        found[f"m{number}"] = {
            name: (value + 0.3 * draw.normal(size=value.shape)).astype(dtype)
            if value.dtype.kind == "f"
            else value + number + 1
            for name, value in start.items()
        }
    return Pool(found, start if base else None)


def _toy(subject: Subject, models: int = 3, **settings: Any) -> Pool:
    """A toy pool of as many models as the method takes."""
    return toy_pool(subject.cls.count or models, **settings)


def _copies(subject: Subject, state: State) -> dict[str, State]:
    """Equal models, as many as the method takes."""
    return {name: dict(state) for name in ("a", "b", "c")[: subject.cls.count]}


def _any_count(subject: Subject) -> bool:
    """Whether one model can be merged."""
    return subject.cls.count in (None, 1)


def _merge(subject: Subject, pool: Pool, have: Have | None = None, **settings: Any) -> Merged:
    merged: Merged = subject.make(**settings).merge(pool, have)
    return merged


def _keeps(subject: Subject) -> bool:
    """Whether tasks keep something of their own."""
    return Need.TASK_ID in subject.cls.card.needs


@contextmanager
def _folder(pool: Pool, shard: int) -> Iterator[tuple[Pool, Folder]]:
    """The pool stored in files, and a folder to merge it into."""
    with TemporaryDirectory() as place:
        for name, state in (("base", pool.base), *pool.models.items()):
            write_state(Path(place, f"{name}.safetensors"), state)
        opened = {n: open_checkpoint(Path(place, f"{n}.safetensors")) for n in pool.names}
        base = open_checkpoint(Path(place, "base.safetensors"))
        yield Pool(opened, base), Folder(Path(place, "merged"), "the toy", shard=shard)


def _difference(state: State, base: State) -> Array:
    """All floating tensors less the base's, as one vector."""
    names = [name for name, value in base.items() if value.dtype.kind == "f"]
    return np.concatenate([np.ravel(state[name] - base[name]) for name in names])


def _gap(one: State, two: State) -> tuple[float, str]:
    worst = (0.0, "")
    for name, value in one.items():
        other = two[name]
        if value.size:
            gap = float(np.max(np.abs(value.astype("float64") - other.astype("float64"))))
            worst = max(worst, (gap, name))
    return worst


def _close(one: State, two: State, tolerance: float) -> None:
    assert one.keys() == two.keys(), f"tensors differ: {sorted(set(one) ^ set(two))}"
    gap, name = _gap(one, two)
    assert gap <= tolerance, f"{name!r} differs by {gap:.3g}, {tolerance:g} is allowed"


@suite.law("one model, nothing scaled or dropped, comes back as it is", _any_count)
def one_expert_is_returned(subject: Subject) -> None:
    pool = toy_pool(1)
    merged = _merge(subject, pool, **subject.cls.neutral()).tensors
    floats = {name: value for name, value in merged.items() if value.dtype.kind == "f"}
    _close(floats, {name: pool.models["m0"][name] for name in floats}, 1e-12)


@suite.law("equal models, nothing trimmed or dropped, merge to a multiple of their difference")
def equal_experts_keep_their_direction(subject: Subject) -> None:
    pool = toy_pool(1)
    expert = pool.models["m0"]
    same = Pool(_copies(subject, expert), pool.base)
    merged = _merge(subject, same, **subject.cls.neutral()).tensors
    whole, step = _difference(merged, pool.base), _difference(expert, pool.base)
    factor = float(whole @ step) / float(step @ step)
    gap = float(np.abs(whole - factor * step).max())
    assert factor > 0, f"the multiple is {factor:.3g}"
    assert gap <= 1e-10, f"off the models' difference by {gap:.3g}"


@suite.law("a task's own model is the expert where there is one expert", _keeps)
def one_task_is_served_exactly(subject: Subject) -> None:
    pool = toy_pool(1)
    served = _merge(subject, pool, **subject.cls.neutral()).tasks["m0"]
    expert = {name: pool.models["m0"][name] for name in served if name != "trunk.steps"}
    _close({name: served[name] for name in expert}, expert, 1e-12)


@suite.law("every task is served a whole model, the same from memory and from files", _keeps)
def tasks_are_served_whole(subject: Subject) -> None:
    pool = _toy(subject, dtype="float32")
    merged = _merge(subject, pool)
    assert list(merged.tasks) == list(pool.names), f"tasks {list(merged.tasks)}"
    with _folder(pool, shard=40) as (stored, sink):
        again = subject.make().merge(stored, sink=sink)
        for task, state in merged.tasks.items():
            assert list(state) == [site.name for site in pool.sites]
            _close(again.tasks[task], state, 0.0)


@suite.law("merged from files into files, every bit is as in memory, for any workers and blocks")
def files_equal_memory(subject: Subject) -> None:
    for settings in subject.cls.examples():
        for dtype in ("float16", "float32"):
            pool = _toy(subject, dtype=dtype)
            wanted = _merge(subject, pool, **settings).tensors
            with _folder(pool, shard=40) as (stored, sink):
                merged = subject.make(**settings).merge(stored, sink=sink, workers=3)
                _close(merged.tensors, wanted, 0.0)


@suite.law("cut into small blocks, the result is the same")
def blocks_are_free(subject: Subject) -> None:
    for settings in subject.cls.examples():
        wanted = _merge(subject, _toy(subject), **settings).tensors
        with patch("plait.merging.engine.BLOCK", 8), patch("plait.merging.results.BLOCK", 8):
            _close(_merge(subject, _toy(subject), **settings).tensors, wanted, 1e-12)


@suite.law("models equal to the base merge to the base")
def no_change_gives_the_base(subject: Subject) -> None:
    base = base_state()
    pool = Pool(_copies(subject, base), base)
    _close(_merge(subject, pool).tensors, base, 1e-12)


@suite.law(Law.PERMUTATION.value, declares(Law.PERMUTATION))
def order_of_models_is_free(subject: Subject) -> None:
    pool = _toy(subject, 4)
    names = list(pool.names)
    turned = Pool({name: pool.models[name] for name in reversed(names)}, pool.base)
    _close(_merge(subject, pool).tensors, _merge(subject, turned).tensors, 1e-12)


@suite.law("moving the base and all models by one step moves the result by that step")
def translation(subject: Subject) -> None:
    pool = _toy(subject)
    assert pool.base is not None
    step = {
        name: np.full(v.shape, 0.75 if v.dtype.kind == "f" else 0, v.dtype)
        for name, v in pool.base.items()
    }

    def moved(state: State) -> State:
        return {name: value + step[name] for name, value in state.items()}

    shifted = Pool({name: moved(state) for name, state in pool.models.items()}, moved(pool.base))
    _close(_merge(subject, shifted).tensors, moved(_merge(subject, pool).tensors), 1e-12)


@suite.law("stretching every model's difference to the base stretches the merged difference")
def stretching(subject: Subject) -> None:
    pool = _toy(subject)
    base = pool.base
    assert base is not None

    def stretched(state: State) -> State:
        return {
            name: base[name] + 2 * (value - base[name]) if value.dtype.kind == "f" else value
            for name, value in state.items()
        }

    wide = Pool({name: stretched(state) for name, state in pool.models.items()}, base)
    _close(_merge(subject, wide).tensors, stretched(_merge(subject, pool).tensors), 1e-11)


@suite.law("names, their order, shapes and types stay as they are")
def form_is_kept(subject: Subject) -> None:
    for dtype in ("float16", "float32", "float64"):
        pool = _toy(subject, dtype=dtype)
        merged = _merge(subject, pool).tensors
        assert pool.base is not None
        assert list(merged) == list(pool.base), f"names became {list(merged)}"
        for name, value in pool.base.items():
            found = merged[name]
            assert found.shape == value.shape, f"{name!r}: {found.shape}, was {value.shape}"
            assert found.dtype == value.dtype, f"{name!r}: {found.dtype}, was {value.dtype}"


@suite.law("integer tensors are copied from the base, not averaged")
def integers_are_copied(subject: Subject) -> None:
    pool = _toy(subject)
    merged = _merge(subject, pool).tensors
    assert pool.base is not None
    assert int(merged["trunk.steps"]) == int(pool.base["trunk.steps"]), (
        f"the counter became {merged['trunk.steps']}"
    )
    assert merged["trunk.steps"] is not pool.base["trunk.steps"], "the counter is shared"


@suite.law("sums are formed in float32 or better and rounded once")
def half_precision_rounds_once(subject: Subject) -> None:
    half = _toy(subject, 8, dtype="float16")
    exact = Pool(
        {name: _upcast(state) for name, state in half.models.items()}, _upcast(half.base or {})
    )
    merged, wanted = _merge(subject, half).tensors, _merge(subject, exact).tensors
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
        pool = _toy(subject)
        spoilt = {name: dict(state) for name, state in pool.models.items()}
        last = pool.names[-1]
        weight = spoilt[last]["trunk.weight"].copy()
        weight[2, 1] = bad
        spoilt[last]["trunk.weight"] = weight
        said = _refusal(subject, spoilt, pool.base)
        assert "trunk.weight" in said, f"the tensor is not named: {said!r}"
        assert last in said, f"the model is not named: {said!r}"


@suite.law("models of other names or shapes are refused, the tensor named")
def mismatch_is_refused(subject: Subject) -> None:
    pool = _toy(subject)
    lacking = {name: dict(state) for name, state in pool.models.items()}
    del lacking[pool.names[-1]]["trunk.bias"]
    assert "trunk.bias" in _refusal(subject, lacking, pool.base)
    bent = {name: dict(state) for name, state in pool.models.items()}
    bent["m0"]["trunk.weight"] = np.zeros((5, 4))
    assert "trunk.weight" in _refusal(subject, bent, pool.base)


@suite.law("without a declared need of a base, the base is not touched; with it, it is asked for")
def base_need_is_honest(subject: Subject) -> None:
    pool = _toy(subject, base=False)
    if Need.BASE not in subject.cls.card.needs:
        merged = _merge(subject, pool).tensors
        assert all(np.isfinite(value).all() for value in merged.values())
        return
    said = refusal(lambda: _merge(subject, pool))
    assert Need.BASE.words in said, f"a pool without a base gave {said!r}"


@suite.law("without a declared need of validation rows, the method runs without them")
def validation_need_is_honest(subject: Subject) -> None:
    if Need.VALIDATION not in subject.cls.card.needs:
        _merge(subject, _toy(subject), Have())
        return
    said = refusal(lambda: _merge(subject, _toy(subject), Have()))
    assert Need.VALIDATION.words in said, f"without validation rows it said {said!r}"


@suite.law("a free coefficient goes where validation is best", lambda s: "grid" in s.cls.accepted())
def search_finds_the_best(subject: Subject) -> None:
    pool = _toy(subject)
    grid = subject.make().grid
    for wanted in (grid[1], grid[-2]):
        target = _merge(subject, pool, scale=wanted).tensors
        have = Have(validation=lambda state, aim=target: _gap(state, aim)[0])  # type: ignore[misc]
        merged = _merge(subject, pool, have)
        _close(merged.tensors, target, 1e-12)


@suite.law("the pool is left as it was")
def inputs_are_unmutated(subject: Subject) -> None:
    pool, twin = _toy(subject), _toy(subject)
    merged = _merge(subject, pool).tensors
    for name in pool.names:
        _close(pool.models[name], twin.models[name], 0.0)
    _close(pool.base or {}, twin.base or {}, 0.0)
    for name, value in merged.items():
        for owner, state in (("the base", pool.base or {}), *pool.models.items()):
            assert not np.shares_memory(value, state[name]), f"{name!r} is a view of {owner}"


@suite.law("the same pool gives the same numbers, bit for bit")
def runs_repeat(subject: Subject) -> None:
    _close(_merge(subject, _toy(subject)).tensors, _merge(subject, _toy(subject)).tensors, 0.0)
    method = subject.make()
    once = method.merge(_toy(subject)).tensors
    method.merge(_toy(subject, seed=5))
    _close(method.merge(_toy(subject)).tensors, once, 0.0)


@suite.law("the layout of a tensor in memory changes nothing")
def memory_layout_is_free(subject: Subject) -> None:
    pool = _toy(subject)

    def turned(state: State) -> State:
        return {name: np.asfortranarray(value) for name, value in state.items()}

    odd = Pool(
        {name: turned(state) for name, state in pool.models.items()}, turned(pool.base or {})
    )
    _close(_merge(subject, odd).tensors, _merge(subject, pool).tensors, 1e-12)


@suite.law("weights of any size merge to finite weights of that size")
def any_size_is_finite(subject: Subject) -> None:
    for size in (1e-8, 1.0, 1e8):
        pool = _toy(subject)
        wide = Pool(
            {name: _times(state, size) for name, state in pool.models.items()},
            _times(pool.base or {}, size),
        )
        merged = _merge(subject, wide).tensors
        _close(
            {k: v / size for k, v in merged.items() if v.dtype.kind == "f"},
            {k: v for k, v in _merge(subject, pool).tensors.items() if v.dtype.kind == "f"},
            1e-9,
        )


@suite.law("what is found on the way is plain data")
def evidence_is_plain(subject: Subject) -> None:
    merged = _merge(subject, _toy(subject), Have(validation=lambda _: 1.0))
    json.dumps(dict(merged.evidence), allow_nan=False)


@suite.law("an empty pool is refused")
def empty_pool_is_refused(subject: Subject) -> None:
    assert _refusal(subject, {}, base_state()), "no model, and no complaint"


def golden(subject: Subject) -> dict[str, list[float]]:
    """The merged tensors of the toy pool."""
    merged = _merge(subject, _toy(subject)).tensors
    return {name: np.ravel(value).astype(float).tolist() for name, value in merged.items()}


def _refusal(subject: Subject, models: Mapping[str, State], base: State | None) -> str:
    return refusal(lambda: subject.make().merge(Pool(models, base)))


def _upcast(state: State) -> State:
    return {n: v.astype("float64") if v.dtype.kind == "f" else v for n, v in state.items()}


def _times(state: State, size: float) -> State:
    return {n: v * size if v.dtype.kind == "f" else v for n, v in state.items()}
