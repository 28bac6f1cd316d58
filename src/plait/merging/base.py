"""Merging: several checkpoints become one.

Most papers are a *pipeline* over the models' deltas at every site (a named tensor),

    θ = θ₀ + finish(combine(c, edit(δ₁, …, δ_M))),   δ_m = θ_m − θ₀,

so a :class:`Merger` usually only returns its :class:`~plait.merging.pipeline.Pipeline` of
:mod:`stages <plait.merging.stage>`. A coefficient may be left *free*: it is then filled by a search
on validation. Everything here works on numpy arrays and loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from plait.merging.have import SEEING, Have
from plait.merging.pipeline import Pipeline
from plait.merging.pool import Pool
from plait.merging.results import Merged
from plait.method import Method, MethodError, Need, methods, resolve
from plait.weights.sinks import Memory, Sink

__all__ = ["Have", "Merged", "Merger", "Pipeline", "inner_pipeline"]


class Merger(Method):
    """A way from several checkpoints to one.

    A paper that is a pipeline defines :meth:`pipeline`; any other defines :meth:`run`. ``count`` is
    the number of models it merges, where only one number will do; ``losses`` are those of the tasks
    that it can look at (:data:`plait.losses.LOSSES`), where it cannot look at any.
    """

    count: ClassVar[int | None] = None
    losses: ClassVar[frozenset[str] | None] = None

    def pipeline(self, pool: Pool) -> Pipeline:
        """The stages for this pool."""
        raise NotImplementedError(f"{type(self).__name__} defines neither pipeline nor run")

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Merge into a sink; all needs are met, and ``have`` shows nothing else."""
        return self.pipeline(pool).run(pool, have, sink, workers)

    def merge(
        self,
        pool: Pool,
        have: Have | None = None,
        *,
        sink: Sink | None = None,
        workers: int = 1,
    ) -> Merged:
        """Merge the models of a pool, into memory or a sink of yours, tensors shared by threads.

        Raises ``ValueError`` naming what is needed and not there.
        """
        have = have or Have()
        self.check(pool, have)
        return self.run(
            pool, have.granted(self.needs()), Memory() if sink is None else sink, workers
        )

    def check(self, pool: Pool, have: Have) -> None:
        """Raise ``ValueError`` naming what is needed and not there, or does not fit."""
        owned = have.owned(pool)
        missing = self.needs() - owned
        if missing:
            needs = " and ".join(sorted(need.words for need in missing))
            raise ValueError(f"{self.card.name} needs {needs}{_instead(owned)}")
        if self.count not in (None, len(pool)):
            wanted = "one model" if self.count == 1 else f"{self.count} models"
            raise ValueError(
                f"{self.card.name} merges {wanted} beside any base, and there are {len(pool)}"
            )
        if have.bench is not None and self.needs() & SEEING:
            have.bench.check(pool)
            self.admit(have.bench.losses)

    def admit(self, losses: Mapping[str, str]) -> None:
        """Raise ``ValueError`` naming the tasks, of these losses, that it cannot look at."""
        known = self.losses
        strange = [] if known is None else [t for t, loss in losses.items() if loss not in known]
        if strange:
            raise ValueError(
                f"{self.card.name} works on losses {', '.join(sorted(known or ()))}, and "
                f"{', '.join(map(repr, strange))} has another; leave such tasks out, or take a "
                "merger that looks at features or labels"
            )

    def needs(self) -> frozenset[Need]:
        """What it needs with the settings it has: what the card says, and perhaps more."""
        return self.card.needs

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Settings under which nothing is trimmed, dropped or scaled, as far as it has them."""
        neutral = {"scale": 1.0, "keep": 1.0, "drop": 0.0, "start": 1.0, "steps": 0}
        return {name: value for name, value in neutral.items() if name in cls.accepted()}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Settings that show the method's variants; the contract runs on each of them."""
        return ({},)


def inner_pipeline(method: Any, pool: Pool, around: str) -> Pipeline:
    """The pipeline of the method that another one, called ``around``, works around.

    Raises :class:`~plait.method.MethodError` for one that is no pipeline over task vectors.
    """
    merger = resolve("merging", method)
    if type(merger).pipeline is not Merger.pipeline:
        line: Pipeline = merger.pipeline(pool)
        if line.against_base:
            return line
    raise MethodError(f"{around} works on task vectors, and {merger.card.name} merges without them")


def _instead(owned: frozenset[Need]) -> str:
    """What could run with what there is, those first that use the most of it."""
    possible = methods("merging", have=[need.value for need in owned])
    names = [
        entry.name for entry in sorted(possible, key=lambda entry: (-len(entry.needs), entry.name))
    ]
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"; with what there is these can run: {', '.join(names[:5])}{more}"
