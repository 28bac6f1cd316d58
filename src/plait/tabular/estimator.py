"""scikit-learn estimators that train one network for all columns of y.

>>> import numpy as np
>>> X = np.random.default_rng(0).normal(size=(40, 3))
>>> Y = np.column_stack([X[:, 0] > 0, 3 * X[:, 1]])
>>> Y[::4, 1] = np.nan  # a missing label
>>> MultiTaskEstimator(random_state=0, passes=2).fit(X, Y).predict(X).shape
(40, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from plait.data import Preparation
from plait.method import Method, did_you_mean
from plait.networks import Network
from plait.tabular import saving
from plait.tabular.features import inputs_of
from plait.tabular.fitting import Way, fit_table, predicted
from plait.tabular.form import Array, Form, columns_of
from plait.tabular.scoring import mean_score
from plait.tabular.targets import declare, names_of
from plait.training import Run, Training
from plait.training.loop import Watcher

Kind = TypeVar("Kind", bound="MultiTaskEstimator")
OWN = ("passes", "batch", "learning_rate", "weight_decay", "patience", "device")


def _has_classes(estimator: MultiTaskEstimator) -> bool:
    """Whether probabilities can be asked for; before fitting only a regressor knows."""
    known = getattr(estimator, "tasks_", None)
    if known is None:
        return estimator.sort != "regressor"
    return any(task.classes for task in known)


class MultiTaskEstimator(BaseEstimator):  # type: ignore[misc]
    """One network for all columns of y, whatever their kinds; a missing label is NaN, None or null.

    ``tasks`` names the columns of an array, or maps names to a kind (``binary``, ``classes``,
    ``ordinal``, ``real``, ``counts``) or to settings (``kind``, ``classes``, ``loss``, ``metrics``,
    ``preference``); what it leaves open is inferred as a study does. ``types`` overrides the type
    of input columns. ``encoder``, ``sharing``, ``balancing`` and ``procedure`` are spelled as in a
    study, ``training`` holds further settings of :class:`plait.Training`. ``validation_fraction``
    of the rows (none, where they would be fewer than ten) choose the best pass, and end the
    training after ``patience`` passes without a better one. ``observers`` watch every step.

    After ``fit``: ``tasks_``, ``classes_`` (an array, or for several columns a list with None for
    amounts; absent where there are no classes), ``network_``, ``preparation_``, ``run_``,
    ``n_features_in_``, ``feature_names_in_``.
    """

    sort: ClassVar[Literal["any", "classifier", "regressor"]] = "any"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | Mapping[str, Any] | None = None,
        types: Mapping[str, str] | None = None,
        encoder: Mapping[str, Any] | None = None,
        sharing: Method | str | Mapping[str, Any] = "hard",
        balancing: Method | str | Mapping[str, Any] = "equal",
        procedure: Method | str | Mapping[str, Any] = "plain",
        passes: int = 30,
        batch: int | Literal["auto"] = "auto",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        patience: int | None = 8,
        validation_fraction: float = 0.1,
        training: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        observers: Sequence[Watcher] = (),
    ) -> None:
        self.tasks = tasks
        self.types = types
        self.encoder = encoder
        self.sharing = sharing
        self.balancing = balancing
        self.procedure = procedure
        self.passes = passes
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.training = training
        self.random_state = random_state
        self.device = device
        self.observers = observers

    # -- fitting --------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows X [n, features] and labels y [n] or [n, tasks]: arrays or DataFrames.

        ``sample_weight`` [n] counts every label of a row; rows that weigh nothing are left out.
        Raises ``ValueError`` for faulty data, settings and methods, before any training.
        """
        way = self._way()
        inputs = inputs_of(self, X)
        form, targets = columns_of(y, names_of(self.tasks))
        if len(targets) != len(inputs):
            raise ValueError(f"X has {len(inputs)} samples and y has {len(targets)}")
        weight = _weights(sample_weight, len(inputs))
        if weight is not None:
            kept = weight > 0
            inputs, targets = inputs.filter(kept), targets.filter(kept)
            weight = weight[kept]
        tasks = declare(targets, self.tasks, self.sort)
        fitted = fit_table(inputs, targets, tasks, weight, way)
        self.run_ = fitted.run
        return self._settle(fitted.network, fitted.preparation, form, inputs.columns)

    def _settle(
        self, network: Network, preparation: Preparation, form: Form, columns: Sequence[str]
    ) -> Self:
        self.network_ = network
        self.preparation_ = preparation
        self.form_ = form
        self.columns_ = list(columns)
        self.tasks_ = network.tasks
        labels = self._labels()
        if any(own is not None for own in labels):
            self.classes_ = labels[0] if form.flat else labels
        elif hasattr(self, "classes_"):
            del self.classes_
        return self

    def _labels(self) -> list[Array | None]:
        """The classes of every task as values of y, None for amounts."""
        return [
            self.form_.labels(place, task.classes) if task.classes else None
            for place, task in enumerate(self.tasks_)
        ]

    def _way(self) -> Way:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be from 0 to below 1, got {self.validation_fraction}"
            )
        if not self.passes >= 1 or not self.learning_rate > 0:
            raise ValueError("passes must be at least 1 and learning_rate above 0")
        known = [each.name for each in fields(Training) if each.name not in OWN]
        further = dict(self.training or {})
        for name in further:
            if name not in known:
                own_name = f"; give {name}=… instead" if name in OWN else ""
                hint = own_name or did_you_mean(name, known)
                raise ValueError(f"training: no setting {name!r}{hint}")
        own = {name: getattr(self, name) for name in OWN}
        random = check_random_state(self.random_state)
        return Way(
            sharing=self.sharing,
            balancing=self.balancing,
            procedure=self.procedure,
            encoder=self.encoder or {},
            types=self.types or {},
            training=Training(**further, **own),
            validation_fraction=self.validation_fraction,
            seed=int(random.randint(2**31 - 1)),
            observers=self.observers,
        )

    # -- predicting -----------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """The likeliest class or the amount, of every task, in the form that y had in ``fit``.

        A DataFrame y gives a DataFrame, a series a series, an array an array of the same shape.
        """
        found = self._predicted(X)
        labels = self._labels()
        columns = []
        for task, own in zip(self.tasks_, labels, strict=True):
            value = found[task.name]
            if own is not None:
                value = own[value.argmax(1) if value.ndim == 2 else (value > 0.5).astype(int)]
            columns.append(value)
        return self.form_.give(columns, labels, X.index if hasattr(X, "iloc") else None)

    @available_if(_has_classes)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Class probabilities [n, classes], in the order of ``classes_``.

        For several columns a list with one array for each, None for amounts.
        """
        found = self._predicted(X)
        shares = [_shares(found[task.name]) if task.classes else None for task in self.tasks_]
        return shares[0] if self.form_.flat else shares

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean over tasks of accuracy (classes) or R² (amounts), on the labels that there are.

        A task without labels, and the R² of a constant target, count in no mean.
        """
        found = self._predicted(X)
        names = self.tasks_.names
        _, truth = columns_of(y, names)
        if set(names) <= set(truth.columns):
            truth = truth.select(names)
        if truth.shape != (len(next(iter(found.values()))), len(names)):
            raise ValueError(f"y has shape {truth.shape}, one column for each task is wanted")
        return mean_score(self.tasks_, truth, found, _weights(sample_weight, len(truth)))

    def _predicted(self, X: Any) -> dict[str, Array]:
        check_is_fitted(self)
        inputs = inputs_of(self, X, self.columns_)
        part = self.preparation_.encode(inputs)
        return predicted(self.network_, part, len(inputs))

    # -- keeping --------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the fitted estimator into a folder that :meth:`load` and ``plait.load`` read."""
        check_is_fitted(self)
        settings = {name: saving.plain(value) for name, value in self.get_params(False).items()}
        del settings["observers"]  # they are of this process
        about = {
            "class": type(self).__name__,
            "settings": settings,
            "y": self.form_.to_json(),
            "columns": self.columns_,
            "named": hasattr(self, "feature_names_in_"),
            "run": asdict(self.run_),
        }
        saving.save(Path(folder), self.network_, self.preparation_, about)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a saved estimator back; ``ValueError`` says what is wrong with the folder."""
        network, preparation, about = saving.load(Path(folder))
        made = next((each for each in _every(cls) if each.__name__ == about["class"]), None)
        if made is None:
            raise ValueError(f"{folder} holds a {about['class']}, not a {cls.__name__}")
        found = made(**about["settings"])
        found.n_features_in_ = len(about["columns"])
        if about["named"]:
            found.feature_names_in_ = np.array(about["columns"], dtype=object)
        found.run_ = Run(**{**about["run"], "history": tuple(about["run"]["history"])})
        form = Form.from_json(about["y"])
        return found._settle(network, preparation, form, about["columns"])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = True
        return tags


class MultiTaskClassifier(ClassifierMixin, MultiTaskEstimator):  # type: ignore[misc]
    """One network for columns of y that all hold classes; see :class:`MultiTaskEstimator`.

    The score is the mean accuracy over tasks, not the share of rows that are right in all of them.
    """

    sort = "classifier"
    score = MultiTaskEstimator.score

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MultiTaskRegressor(RegressorMixin, MultiTaskEstimator):  # type: ignore[misc]
    """One network for columns of y that all hold amounts; see :class:`MultiTaskEstimator`."""

    sort = "regressor"
    score = MultiTaskEstimator.score


def _every(cls: type[Kind]) -> list[type[Kind]]:
    """A class and all that derive from it."""
    return [cls, *(one for child in cls.__subclasses__() for one in _every(child))]


def _shares(found: Array) -> Array:
    return found if found.ndim == 2 else np.column_stack([1 - found, found])


def _weights(given: Any, rows: int) -> Array | None:
    """Weights [n], checked; a single number weighs all rows alike."""
    if given is None:
        return None
    weight = np.asarray(given, dtype=np.float64)
    if weight.ndim == 0:
        return None
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight has shape {weight.shape}, wanted ({rows},)")
    if not (np.isfinite(weight) & (weight >= 0)).all() or not weight.any():
        raise ValueError("sample_weight must be finite and not negative, and not zero everywhere")
    return weight
