"""What a merger that looks at data promises; run on a toy network with rows for every task."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from plait.merging.have import SEEING
from plait.merging.pool import Pool
from plait.merging.route import Route
from plait.testing.benches import toy_bench
from plait.testing.laws import Subject, Suite, refusal
from plait.testing.pools import close, have_for, made, merge, seeing, toy

suite = Suite()


def _adding(subject: Subject) -> bool:
    """Whether it adds modules to the network."""
    return issubclass(subject.cls, Route)


@suite.law("what it adds is laid out again from the network alone, and takes the tensors", _adding)
def additions_are_laid_again(subject: Subject) -> None:
    pool = toy(subject)
    bench, again = (toy_bench(pool, subject.cls.losses) for _ in range(2))
    method = made(subject)
    assert isinstance(method, Route)
    merged = method.merge(pool, have_for(subject, pool, bench=bench))
    assert merged.change is not None, "the merge tells of no change"
    laid = method.lay(again.module, 5, pool.names)
    after, around = laid.after, laid.around
    again.module.load_state_dict(bench.module.state_dict())
    for place, task in enumerate(pool.names):
        one, two = (each.run(task, np.arange(6)).features for each in (bench, again))
        if around is not None:
            around.double().load_state_dict(merged.change.around.state_dict())
            with merged.change.around.given(one), around.given(two):
                one, two = (each.run(task, np.arange(6)).features for each in (bench, again))
        if after is not None:
            whose = torch.full((6,), place)
            after.double().load_state_dict(merged.change.after.state_dict())
            one, two = merged.change.after(one, whose), after(two, whose)
        assert torch.equal(one, two), f"{task}: features differ by {float((one - two).abs().max())}"


@suite.law("without what it wants to look at, it refuses and names what is missing", seeing)
def looking_is_asked_for(subject: Subject) -> None:
    pool = toy(subject)
    for need in subject.cls.card.needs & SEEING:
        bench = toy_bench(pool, subject.cls.losses)
        bench.offers -= {need}
        said = refusal(partial(merge, subject, pool, have_for(subject, pool, bench=bench)))
        assert need.words in said, f"without {need.value} it said {said!r}"
        assert not bench.ran, f"without {need.value} it ran the network first"


@suite.law("tasks, rows and tensors that do not fit the models are refused before any run", seeing)
def benches_must_fit(subject: Subject) -> None:
    pool = toy(subject)
    other = Pool({f"x{name}": state for name, state in pool.models.items()}, pool.base)
    for bench, word in (
        (toy_bench(other, subject.cls.losses), pool.names[0]),
        (toy_bench(pool, subject.cls.losses, rows=0), pool.names[0]),
        (toy_bench(pool, subject.cls.losses, width=4), "trunk.weight"),
    ):
        said = refusal(partial(merge, subject, pool, have_for(subject, pool, bench=bench)))
        assert repr(word) in said, f"{word!r} is not named: {said!r}"
        assert not bench.ran, "the network was run first"


@suite.law("chance comes from its seed: torch's own random state is neither used nor moved", seeing)
def chance_is_its_own(subject: Subject) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        once = merge(subject, toy(subject)).tensors
        assert torch.equal(state, torch.get_rng_state()), "the global generator moved"
        torch.manual_seed(2)
        close(merge(subject, toy(subject)).tensors, once, 0.0)


@suite.law("statistics that are kept in a folder change nothing, found there or not", seeing)
def cache_is_free(subject: Subject) -> None:
    pool = toy(subject, dtype="float32")
    wanted = merge(subject, pool).tensors
    with TemporaryDirectory() as place:
        for _ in range(2):
            bench = toy_bench(pool, subject.cls.losses)
            bench.cache = Path(place)
            close(merge(subject, pool, have_for(subject, pool, bench=bench)).tensors, wanted, 0.0)
