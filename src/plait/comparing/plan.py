"""The plan: what all strategies of a study have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from plait.settings import Training
from plait.task import TaskSet

if TYPE_CHECKING:
    from plait.comparing.given import GivenExperts
    from plait.data import Dataset


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The data, the encoder and the training settings, the same for every strategy.

    ``source`` gives the data set when it is first needed: reading a finished study never loads it.
    ``fingerprint`` is the hash of its contents. ``folder`` is where frozen features are cached;
    relative paths in ``encoder`` start at ``base``. ``experts`` were made elsewhere.
    """

    tasks: TaskSet
    fingerprint: str
    source: Callable[[], Dataset]
    encoder: Mapping[str, Any] = field(default_factory=dict)
    training: Training = Training()
    folder: Path | None = None
    base: Path | None = None
    experts: GivenExperts | None = None

    @classmethod
    def of(cls, dataset: Dataset, **given: Any) -> Self:
        """The plan for a data set that is already there."""
        return cls(
            tasks=dataset.tasks, fingerprint=dataset.fingerprint, source=lambda: dataset, **given
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.source()

    @property
    def pretrained(self) -> bool:
        """Whether an encoder brings weights that were trained before."""
        return any("pretrained" in str(_settings(form)) for form in self.encoder.values())

    @property
    def located(self) -> dict[str, Any]:
        """The encoder with the paths of pretrained models made absolute."""
        return {kind: located(form, self.base) for kind, form in self.encoder.items()}

    def trained_with(self, **changes: Any) -> Plan:
        """The plan with other training settings; the data set is shared."""
        dataset = self.dataset
        return replace(self, training=replace(self.training, **changes), source=lambda: dataset)

    def settings(self) -> dict[str, Any]:
        """What of the plan decides a network's result, as plain data."""
        training = asdict(self.training)
        del training["device"]  # where it runs is recorded, and is not what runs
        del training["meter"]  # looking changes nothing
        given = {} if self.experts is None else {"experts": dict(self.experts.hashes)}
        return {"encoder": dict(self.encoder), "training": training, **given}


def located(form: Any, base: Path | None) -> Any:
    """``{name: {pretrained: path}}`` with the path taken from ``base``, where that is a folder."""
    if not isinstance(form, Mapping) or len(form) != 1 or base is None:
        return form
    ((name, settings),) = form.items()
    pretrained = settings.get("pretrained") if isinstance(settings, Mapping) else None
    if pretrained and (base / pretrained).is_dir():
        return {name: {**settings, "pretrained": str((base / pretrained).resolve())}}
    return form


def _settings(form: Any) -> Any:
    settings = next(iter(form.values()), None) if isinstance(form, Mapping) else None
    return list(settings) if isinstance(settings, Mapping) else ()
