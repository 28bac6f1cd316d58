"""Experts that were made elsewhere, as the networks of a study: read, compared, never trained.

An expert is the folder of a model that plait has saved. Its trunk must be the study's encoder,
tensor by tensor, and must read its inputs as the study reads them; its head is taken over. Heads of
real targets see (y − c)/s with the centre and scale of their own training rows: with the study's c'
and s' the weights become W·s/s' and the bias (s·b + c − c')/s', which predicts the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plait.comparing.apart import network_of
from plait.comparing.building import encoder_frozen, make_network
from plait.comparing.given import GivenExperts
from plait.comparing.model import BundleModel, NetworkModel
from plait.comparing.plan import Plan
from plait.comparing.predictor import Predictor
from plait.data.inputs import Encoding
from plait.kinds import KINDS
from plait.method import did_you_mean
from plait.networks import Network
from plait.networks.base import escape
from plait.task import Task

STRANGE = 1.0  # of the base's norm; networks that share no origin lie at about √2 from it
UNSEEN = ("frozen", "checkpointing", "max_length", "dropout")  # change no tensor and no prediction


def experts(plan: Plan) -> BundleModel:
    """One network for each task of the plan, from the folders of its experts."""
    given = _given(plan)
    members = []
    for task in plan.tasks:
        network = _fresh(plan, [task.name])
        _take(network, _read(plan, given.unchanged(task.name), task.name), task)
        members.append(NetworkModel(network))
    return BundleModel(plan.tasks, members, {"best_pass": 0})


def base(plan: Plan) -> NetworkModel:
    """The network of all tasks that the experts were tuned from; its heads are a start."""
    given = _given(plan)
    network = _fresh(plan, plan.tasks.names)
    if given.base:
        theirs = _read(plan, given.unchanged(""), "")
        network.trunk.load_state_dict(theirs.trunk.state_dict())
    return NetworkModel(network, {"passes": 0})


def check(plan: Plan) -> None:
    """Raise ``ValueError`` with everything that keeps the experts from being this study's."""
    given = _given(plan)
    wrong = list(given.check(plan.tasks.names))
    if not given.base and not plan.pretrained:
        wrong.append(
            "experts: what were they tuned from? give base: the folder of that model, or set "
            "encoder: {text: {transformer: {pretrained: …}}}"
        )
    if wrong:
        raise ValueError("\n".join(wrong))
    try:
        start = base(plan)
    except ValueError as error:  # also of damaged folders
        raise ValueError(f"experts: base: {error}") from error
    origin = _flat(start.network)
    for task in plan.tasks:
        try:
            network = _fresh(plan, [task.name])
            _take(network, _read(plan, Path(given.models[task.name]), task.name), task)
            _refuse_stranger(_flat(network), origin)
        except ValueError as error:
            wrong.append(f"experts: {task.name}: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))


def _given(plan: Plan) -> GivenExperts:
    if plan.experts is None:
        raise ValueError("the study names no experts; give experts: {models: {task: folder}}")
    return plan.experts


def _fresh(plan: Plan, names: Any) -> Network:
    """A network of the study whose encoder is not frozen: that of experts has been tuned."""
    return make_network(encoder_frozen(plan, frozen=False), 0, tasks=names)


def _read(plan: Plan, folder: Path, task: str) -> Network:
    """The network in a folder that serves a task (empty: any), if its trunk is the study's."""
    saved = Predictor.load(folder)
    name = task if task in saved.tasks or len(saved.tasks) > 1 else saved.tasks[0]
    if task and name not in saved.tasks:
        raise ValueError(
            f"{folder} has no task {task!r}{did_you_mean(task, saved.tasks)} but "
            f"{', '.join(saved.tasks[:3])}"
        )
    try:
        network = network_of(saved.model, name or saved.tasks[0])
    except TypeError as error:
        raise ValueError(f"{folder}: {error}") from error
    ours = _fresh(plan, [plan.tasks.names[0]])
    wrong = [*_otherwise(plan, saved), *_unlike(ours, network)]
    if wrong:
        raise ValueError(f"{folder}: {'; '.join(wrong)}")
    return network


def _otherwise(plan: Plan, saved: Predictor) -> Iterator[str]:
    """Inputs that a saved model reads otherwise than the study does."""
    ours = {each.input.key: each for each in plan.dataset.preparation.encodings}
    theirs = {each.input.key: each for each in saved.preparation.encodings}
    for key in saved.model.inputs():
        if key not in ours:
            yield f"it reads {key!r}, which the study has not{did_you_mean(key, ours)}"
        elif _told(ours[key]) != _told(theirs[key]):
            yield (
                f"it reads {key!r} otherwise than the study (another tokenizer, or numbers and "
                "categories of other training rows); use the data and the split that it was "
                "trained with"
            )


def _told(encoding: Encoding) -> Any:
    told = dict(encoding.to_json())
    for coding in ("transformer",):
        if coding in told:
            told[coding] = {k: v for k, v in told[coding].items() if k != "max_length"}
    return told


def _unlike(ours: Network, theirs: Network) -> Iterator[str]:
    """How another trunk differs from the study's, the first difference named."""
    mine = {name: tuple(value.shape) for name, value in ours.trunk.state_dict().items()}
    other = {name: tuple(value.shape) for name, value in theirs.trunk.state_dict().items()}
    for name in sorted(mine.keys() | other.keys()):
        if mine.get(name) != other.get(name):
            here, there = (_shape(found.get(name)) for found in (mine, other))
            yield f"it has another encoder: {name} is {there} in it and {here} in the study"
            return
    before, after = (_seen(network.config.get("encoder", {})) for network in (ours, theirs))
    if before != after:
        part = next(k for k in {**before, **after} if before.get(k) != after.get(k))
        yield (
            f"it has another encoder: {part} is {after.get(part)} in it and {before.get(part)} in "
            "the study"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _seen(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of an encoder decides its predictions."""
    found: dict[str, Any] = {}
    for part, form in spec.items():
        if isinstance(form, Mapping):
            ((name, settings),) = form.items()
            for key, value in dict(settings).items():
                if key not in (*UNSEEN, "config"):
                    found[f"{part}.{name}.{key}"] = value
    return found


@torch.no_grad()
def _take(network: Network, saved: Network, task: Task) -> None:
    """Give the network of one task the trunk and the head of a saved one."""
    network.trunk.load_state_dict(saved.trunk.state_dict())
    name = task.name if task.name in saved.tasks.position else saved.tasks.names[0]
    theirs = saved.tasks[name]
    for what in ("kind", "loss", "classes"):
        mine, other = getattr(task, what), getattr(theirs, what)
        if mine != other:
            raise ValueError(f"its head does not fit: {what} {other} in it, {mine} in the study")
    bank = dict(saved.heads.banks[escape(theirs.group)].named_parameters())
    position = saved.tasks.groups[theirs.group].position[name]
    own = dict(network.heads.banks[escape(task.group)].named_parameters())
    for key, parameter in own.items():
        parameter[0].copy_(bank[key][position])
    if KINDS[task.kind].standardised:
        own["weight"].mul_(theirs.scale / task.scale)
        own["bias"].mul_(theirs.scale / task.scale)
        own["bias"].add_((theirs.center - task.center) / task.scale)


def _flat(network: Network) -> Any:
    trunk = network.trunk.named_parameters()
    return np.concatenate([p.detach().cpu().numpy().ravel() for _, p in trunk])


def _refuse_stranger(own: Any, origin: Any) -> None:
    """Raise ``ValueError`` for an expert that was not tuned from the base."""
    norm = float(np.linalg.norm(origin)) or 1.0
    distance = float(np.linalg.norm(own - origin)) / norm
    if not distance <= STRANGE:
        raise ValueError(
            f"it shares little with the base: they differ by {distance:.0%} of its norm; give the "
            "base that it was tuned from"
        )
