"""The plain baselines: estimators of one sort, for each task or with the task's number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.comparing.plain.fitting import poolable
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class Baseline(Strategy):
    """A plain baseline; with ``pooled``, alike tasks share an estimator that sees their number.

    ``each`` and ``one`` name the estimator of one task and the one for all in a sentence.
    """

    baseline: ClassVar[bool] = True
    each: ClassVar[str]
    one: ClassVar[str]
    pooled: bool = False

    def words(self) -> str:
        """What it is."""
        return f"{self.one} with the task's number" if self.pooled else f"{self.each} per task"

    def check(self, plan: Plan) -> None:
        """Every task has one label a row; pooling needs tasks that are alike."""
        for task in plan.dataset.tasks:
            if task.place != "row":
                raise ValueError(
                    f"{self.card.name}: task {task.name!r} labels positions inside the rows, and "
                    "plain baselines but the prior look at whole rows; leave it out"
                )
        if self.pooled and not poolable(plan.dataset):
            name = self.card.name
            raise ValueError(f"{name}: pooled needs two tasks of one kind on the same inputs")
