"""What a balancer promises, as a function of its signals and of its own state.

The laws about the engine around it (rows, micro-batches, absent heads) are in ``updates``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from plait.balancing.base import Rung
from plait.method import Law, Need
from plait.testing import updates
from plait.testing.laws import Subject, Suite
from plait.testing.playing import (
    equal_states,
    first,
    first_in_units,
    guard,
    near,
    play,
    signals,
    start,
)
from plait.testing.toys import Quadratics

suite = Suite()


def _promises(law: Law) -> Callable[[Subject], bool]:
    return lambda subject: law in subject.cls.card.laws


def _trio() -> list[Quadratics]:
    calm = Quadratics.with_cosine(0.4, tasks=4, seed=3)
    return [Quadratics.random(4, seed=1), Quadratics.with_cosine(-0.3, tasks=4, seed=2), calm]


@suite.law("the answer is one weight per task, or on the Jacobian rung one number per parameter")
def answer_has_its_shape(subject: Subject) -> None:
    for dtype in (torch.float32, torch.float64):
        problem = Quadratics.random(3, size=5, dtype=dtype)
        balancer = start(subject, problem).balancer
        answer = balancer(signals(problem, balancer))
        allowed: list[tuple[int, ...]] = [(5,)] if balancer.rung is Rung.JACOBIAN else [(3,)]
        allowed += [(2, 3)] if balancer.by_layer else []
        allowed += [(balancer.samples, 3)] if balancer.samples > 1 else []
        assert tuple(answer.shape) in allowed, f"shape {tuple(answer.shape)}, allowed {allowed}"
        assert answer.is_floating_point(), f"dtype {answer.dtype}"
        assert answer.device == problem.gradients.device
        assert not answer.requires_grad, "the answer carries a graph"
        if balancer.rung is Rung.JACOBIAN:
            assert answer.dtype == dtype, f"the update is {answer.dtype}, the Jacobian {dtype}"


@suite.law("float32 and float64 agree to float32's precision")
def precisions_agree(subject: Subject) -> None:
    wide = first(subject, Quadratics.random(4, seed=1))
    narrow = first(subject, Quadratics.random(4, seed=1, dtype=torch.float32))
    near(narrow.double(), wide, 1e-4, "float32 against float64")


@suite.law("the same signals, seed and state give the same answer, and asking changes nothing")
def runs_repeat(subject: Subject) -> None:
    problem = Quadratics.random(4)
    one = play(start(subject, problem), problem, range(4), seed=3)
    two = play(start(subject, problem), problem, range(4), seed=3)
    for a, b in zip(one.updates, two.updates, strict=True):
        assert torch.equal(a, b), "two runs with one seed differ"
    before = {name: value.clone() for name, value in one.balancer.state_dict().items()}
    seen = signals(problem, one.balancer, step=9)
    assert torch.equal(one.balancer(seen), one.balancer(seen)), "the second answer differs"
    equal_states(before, one.balancer.state_dict(), "asking moved the state")


@suite.law("torch's own random state is neither read nor moved")
def global_randomness_is_left_alone(subject: Subject) -> None:
    problem = Quadratics.with_cosine(-0.3, tasks=4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        one = first(subject, problem)
        assert torch.equal(state, torch.get_rng_state()), "the global generator moved"
        torch.manual_seed(2)
        assert torch.equal(one, first(subject, problem)), "the global seed changes the answer"


@suite.law("signals are left as they were")
def inputs_are_unmutated(subject: Subject) -> None:
    problem = Quadratics.random(4)
    balancer = start(subject, problem).balancer
    seen, twin = (signals(problem, balancer) for _ in range(2))
    balancer(seen)
    balancer.advance(seen, seen.losses.clone() if balancer.second_look else None)
    for name in (f.name for f in fields(seen) if isinstance(getattr(seen, f.name), Tensor)):
        now, was = getattr(seen, name), getattr(twin, name)
        assert now is was or torch.equal(now, was), f"{name} was written to"


@suite.law("nothing is looked at but what the class asks for")
def needs_are_honest(subject: Subject) -> None:
    problem = Quadratics.random(4)
    balancer = start(subject, problem).balancer
    for step in range(3):
        seen = signals(problem, balancer, kind=guard(balancer), step=step)
        balancer(seen)
        balancer.advance(seen, seen.losses * 0.9 if balancer.second_look else None)


@suite.law("a balancer that is blind to losses weighs without them")
def blindness_is_honest(subject: Subject) -> None:
    if not subject.make().blind:
        return
    problem = Quadratics.random(4)
    balancer = start(subject, problem).balancer
    seen = signals(problem, balancer)
    unknown = signals(problem, balancer)
    unknown.losses.fill_(torch.nan)
    assert torch.equal(balancer(seen), balancer(unknown)), "the losses changed the weights"


@suite.law("the card's needs say what the class asks for")
def needs_match_the_class(subject: Subject) -> None:
    needs, made = subject.cls.card.needs, subject.make()
    assert Need.BACKWARD in needs, "a balancer needs gradients"
    for need in (Need.SECOND_LOOK, Need.VALIDATION):
        asked = made.second_look if need is Need.SECOND_LOOK else made.needs_validation
        assert (need in needs) == asked, f"{need.value}: {asked} by the class, not by the card"
    assert isinstance(made.rung, Rung), f"rung is {made.rung!r}"
    assert made.rung is Rung.GRAM or not made.by_layer, "layers are for the Gram rung"
    assert made.rung is Rung.GRAM or made.samples == 1, "samples are for the Gram rung"


@suite.law("state lies in buffers and parameters; no other attribute changes")
def no_hidden_state(subject: Subject) -> None:
    problem = Quadratics.random(4)
    trail = start(subject, problem)
    plain = {k: v for k, v in vars(trail.balancer).items() if not k.startswith("_")}
    play(trail, problem, range(4))
    now = {k: v for k, v in vars(trail.balancer).items() if not k.startswith("_")}
    assert now.keys() == plain.keys(), f"new attributes: {sorted(now.keys() ^ plain.keys())}"
    changed = [name for name, value in plain.items() if now[name] is not value]
    assert not changed, f"attributes changed: {changed}"
    mutable = [k for k, v in now.items() if isinstance(v, (list, dict, set, Tensor))]
    assert not mutable, f"mutable attributes besides buffers: {mutable}"


@suite.law("state is saved per task, by name")
def state_is_named(subject: Subject) -> None:
    problem = Quadratics.random(3)
    trail = play(start(subject, problem), problem, range(3))
    for name, value in trail.balancer.state_dict().items():
        task = name.rpartition("/")[2]
        assert isinstance(value, Tensor), f"{name!r} is {type(value).__name__}"
        if value.is_floating_point():  # a count of steps belongs to no task
            assert task in problem.tasks, f"{name!r} names no task"


@suite.law("a run saved and resumed equals the uninterrupted one, bit for bit")
def resume_is_exact(subject: Subject) -> None:
    problem = Quadratics.random(4)
    whole = play(start(subject, problem), problem, range(8), seed=5)
    for cut in (1, 4, 7):
        early = play(start(subject, problem), problem, range(cut), seed=5)
        state = {name: value.clone() for name, value in early.balancer.state_dict().items()}
        late = start(subject, problem)
        late.balancer.load_state_dict(state)
        late.point = early.point
        play(late, problem, range(cut, 8), seed=5)
        for step, (a, b) in enumerate(zip(whole.updates[cut:], late.updates, strict=True), cut):
            assert torch.equal(a, b), f"cut at {cut}: step {step} differs by {(a - b).abs().max()}"
        equal_states(whole.balancer.state_dict(), late.balancer.state_dict(), f"cut at {cut}")


@suite.law("a state loads in another order of tasks")
def state_loads_in_any_order(subject: Subject) -> None:
    problem, order = Quadratics.random(4), [2, 0, 3, 1]
    turned = problem.permuted(order)
    whole = play(start(subject, problem), problem, range(8), seed=5)
    early = play(start(subject, problem), problem, range(4), seed=5)
    late = start(subject, turned)
    late.balancer.load_state_dict(early.balancer.state_dict())
    late.point = early.point
    play(late, turned, range(4, 8), seed=5)
    near(late.point, whole.point, 1e-10, "resumed with the tasks in another order")


@suite.law(Law.PERMUTATION.value, _promises(Law.PERMUTATION))
def permutation(subject: Subject) -> None:
    for problem in _trio():
        for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
            turned = problem.permuted(order)
            one = play(start(subject, problem), problem, range(5), seed=2)
            two = play(start(subject, turned), turned, range(5), seed=2)
            near(two.point, one.point, 1e-10, f"after 5 steps with the tasks as {order}")


@suite.law(
    "with a task absent the result is that of the method on the others", _promises(Law.ABSENT)
)
def absent_task_is_as_if_never_there(subject: Subject) -> None:
    for problem in _trio():
        others = problem.tasks[:2] + problem.tasks[3:]
        small = problem.permuted([0, 1, 3])
        with_it = play(start(subject, problem), problem, range(5), present=lambda _: others)  # noqa: B023
        without = play(start(subject, small), small, range(5))
        near(with_it.point, without.point, 1e-10, "t2 absent against t2 unknown")


@suite.law("an absent task's state stays as it was", _promises(Law.ABSENT))
def absent_state_is_frozen(subject: Subject) -> None:
    problem = Quadratics.random(4)
    trail = play(start(subject, problem), problem, range(3))
    before = {k: v.clone() for k, v in trail.balancer.state_dict().items() if k.endswith("/t2")}
    play(trail, problem, range(3, 6), present=lambda _: ("t0", "t1", "t3"))
    after = {k: v for k, v in trail.balancer.state_dict().items() if k.endswith("/t2")}
    equal_states(before, after, "t2 was absent for three steps")


@suite.law("tasks that join later leave the state of the others as it is")
def binding_more_tasks_keeps_state(subject: Subject) -> None:
    problem = Quadratics.random(3)
    trail = play(start(subject, problem), problem, range(3))
    before = {name: value.clone() for name, value in trail.balancer.state_dict().items()}
    trail.balancer.bind(("new", *reversed(problem.tasks)))
    trail.balancer.bind(problem.tasks)
    equal_states(before, trail.balancer.state_dict(), "after one more task came and went")


@suite.law("one task alone moves along its own gradient")
def one_task_is_plain(subject: Subject) -> None:
    problem = Quadratics.random(1)
    for only in (None, ("t1",)):
        many = Quadratics.random(3) if only else problem
        update = first(subject, many, only=only)
        gradient = many.gradients[1 if only else 0]
        cosine = float(torch.nn.functional.cosine_similarity(update, gradient, dim=0))
        assert cosine > 1 - 1e-9, f"cosine {cosine:.12f} to the task's own gradient"


@suite.law("zero gradients, one of them or all, give a finite answer")
def zero_gradients_are_finite(subject: Subject) -> None:
    for factors in ([0.0, 0.0, 0.0], [1.0, 0.0, 1.0]):
        problem = Quadratics.random(3).scaled(torch.tensor(factors))
        update = first(subject, problem)
        assert update.isfinite().all(), f"gradients times {factors} give {update}"
        assert any(factors) or not update.any(), f"nothing to follow, and yet {update}"


@suite.law("identical tasks are told to go where they all want to go")
def identical_tasks_agree(subject: Subject) -> None:
    one = Quadratics.random(1)
    problem = Quadratics(("a", "b", "c"), one.gradients.repeat(3, 1), one.floor.repeat(3))
    trail = play(start(subject, problem), problem, range(5))
    for update in trail.updates:
        assert update.isfinite().all(), f"update {update}"
        cosine = float(torch.nn.functional.cosine_similarity(update, one.gradients[0], dim=0))
        assert cosine > 1 - 1e-9, f"cosine {cosine:.9f} to their common gradient"


@suite.law("losses and gradients from 1e-8 to 1e8, alike or not, give finite answers")
def any_scale_is_finite(subject: Subject) -> None:
    problem = Quadratics.random(3)
    for factors in ([1e-8] * 3, [1e8] * 3, [1e-8, 1.0, 1e8]):
        wide = problem.scaled(torch.tensor(factors, dtype=torch.float64))
        trail = play(start(subject, wide), wide, range(3))
        for update in trail.updates:
            assert update.isfinite().all(), f"gradients times {factors} give {update}"


@suite.law(Law.SCALE.value, _promises(Law.SCALE))
def scaling_all_scales_the_update(subject: Subject) -> None:
    for problem in _trio():
        update = first(subject, problem)
        for factor in (1e-3, 7.0):
            wide = first_in_units(subject, problem, torch.full_like(problem.floor, factor))
            near(wide, update * factor, 1e-9, f"all losses times {factor:g}")


@suite.law(Law.LOSS_SCALE.value, _promises(Law.LOSS_SCALE))
def scaling_one_loss_changes_nothing(subject: Subject) -> None:
    for problem in _trio():
        factors = torch.tensor([1.0, 30.0, 1.0, 0.2], dtype=torch.float64)
        wide = first_in_units(subject, problem, factors)
        near(wide, first(subject, problem), 1e-6, "two losses in other units")


@suite.law(Law.NON_CONFLICTING.value, _promises(Law.NON_CONFLICTING))
def no_task_is_opposed(subject: Subject) -> None:
    for seed in range(20):
        problem = Quadratics.random(4, size=6, seed=seed)
        update = first(subject, problem, seed=seed)
        agreement = problem.gradients @ update
        scale = float(update.norm()) * problem.gradients.norm(dim=1)
        worst = float((agreement / scale.clamp(min=1e-300)).min())
        assert worst > -1e-6, f"cosine {worst:.3g} to a task's gradient (toy {seed})"


@suite.law("on convex toys the sum of the losses falls")
def descends(subject: Subject) -> None:
    for cosine in (0.5, 0.0, -0.3):
        problem = Quadratics.with_cosine(cosine, tasks=3)
        at_start = float(problem.losses(torch.zeros_like(problem.gradients[0])).sum())
        trail = play(start(subject, problem), problem, range(60))
        best = float(problem.losses(-problem.gradients.mean(0)).sum())
        left = (trail.losses[-1] - best) / (at_start - best)
        assert left < 0.9, f"cosine {cosine}: {left:.0%} of the avoidable loss is left"


suite.properties += updates.suite.properties


def golden(subject: Subject) -> dict[str, list[float]]:
    """The point after ten steps on three toys, and the last update."""
    found = {}
    for number, problem in enumerate(_trio()):
        trail = play(start(subject, problem), problem, range(10), seed=7)
        found[f"point {number}"] = trail.point.tolist()
        found[f"update {number}"] = trail.updates[-1].tolist()
    return found
