"""The baseline of boosted trees (LightGBM, extra ``boost``), per task or with the task's number.

Boosting stops where the validation loss has not improved for thirty rounds. The task's number is a
category, as in the strongest published baselines for many tables of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from plait.comparing.model import Model
from plait.comparing.plain.baseline import Baseline
from plait.comparing.plain.estimators import Boosters, load_lightgbm, threads_for
from plait.comparing.plain.fitting import Sample, Samples, quiet, random_state
from plait.comparing.plan import Plan
from plait.comparing.timing import extrapolated
from plait.method import Card, Need, Paper

PATIENCE = 30


@dataclass(frozen=True, kw_only=True)
class Boosting(Baseline):
    """At most ``rounds`` boosted trees with ``leaves`` leaves, shrunk by ``learning_rate``."""

    card: ClassVar[Card] = Card(
        family="strategy",
        name="boosting",
        summary="boosted trees for each task, or for all with the task's number as a category",
        paper=Paper(
            title="LightGBM: A Highly Efficient Gradient Boosting Decision Tree",
            authors=(
                "Guolin Ke and Qi Meng and Thomas Finley and Taifeng Wang and Wei Chen and "
                "Weidong Ma and Qiwei Ye and Tie-Yan Liu"
            ),
            year=2017,
            venue="Advances in Neural Information Processing Systems",
            url="https://github.com/microsoft/LightGBM",
        ),
        needs=frozenset({Need.LABELLED}),
    )
    each: ClassVar[str] = "boosted trees"
    one: ClassVar[str] = "boosted trees"
    learning_rate: float = 0.05
    rounds: int = 500
    leaves: int = 31

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.rounds < 1 or self.leaves < 2:
            raise ValueError(
                "learning_rate must be positive, rounds at least 1 and leaves at least 2"
            )

    def check(self, plan: Plan) -> None:
        """LightGBM must be there, and pooling needs tasks that are alike."""
        load_lightgbm()
        Baseline.check(self, plan)

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Boost."""
        samples = Samples(plan, codes=True, pooled=self.pooled)
        with quiet():
            fitted = {
                s.pool.name: self._fit(
                    s, samples.sample(s.pool, "valid"), samples.view.categories, seed
                )
                for s in samples
            }
        rounds = [booster.current_iteration() for booster in fitted.values()]
        return samples.model(Boosters(fitted), {"rounds": round(float(np.mean(rounds)))})

    def seconds(self, plan: Plan) -> float:
        """From a few rounds; without a validation row none is left out."""

        def run(rounds: int) -> Model:
            return replace(self, rounds=rounds).run(plan, {}, 0, Path())

        held = any(plan.dataset.counts("valid").values())
        return extrapolated(run, self.rounds, PATIENCE + 1 if held else None)

    def settled(self, found: Mapping[str, Any]) -> Boosting:
        """With the mean number of rounds that validation chose."""
        return replace(self, rounds=max(1, found["rounds"]))

    def _fit(self, sample: Sample, held: Sample | None, categories: list[int], seed: int) -> Any:
        lightgbm = load_lightgbm()
        if len(sample.pool.tasks) > 1:
            categories = [*categories, sample.table.shape[1] - 1]
        settings = {
            **_objective(sample), "learning_rate": self.learning_rate, "num_leaves": self.leaves,
            "seed": random_state(seed, "boosting", sample.pool.name), "deterministic": True,
            "force_row_wise": True, "num_threads": threads_for(sample.table),
            "verbose": -1,
            "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1,
            "min_data_in_leaf": max(2, min(20, len(sample.target) // 20)),
        }  # fmt: skip
        train = _data(lightgbm, sample, categories)
        if held is None:
            return lightgbm.train(settings, train, num_boost_round=self.rounds)
        booster = lightgbm.train(
            settings,
            train,
            num_boost_round=self.rounds,
            valid_sets=[_data(lightgbm, held, categories, train)],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        kept = booster.model_to_string(num_iteration=booster.best_iteration)
        return lightgbm.Booster(model_str=kept)


def _objective(sample: Sample) -> dict[str, Any]:
    match sample.kind.kind:
        case "binary":
            return {"objective": "binary"}
        case "classes" | "ordinal":
            return {"objective": "multiclass", "num_class": len(sample.kind.classes)}
        case "counts":
            return {"objective": "poisson"}
    return {"objective": "regression"}


def _data(lightgbm: Any, sample: Sample, categories: list[int], reference: Any = None) -> Any:
    return lightgbm.Dataset(
        sample.table,
        sample.target,
        weight=sample.weight,
        categorical_feature=categories,
        reference=reference,
        free_raw_data=True,
    )
