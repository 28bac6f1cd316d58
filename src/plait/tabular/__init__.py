"""Estimators with the scikit-learn interface: one network for all the columns of y."""

from plait.tabular.estimator import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor

__all__ = ["MultiTaskClassifier", "MultiTaskEstimator", "MultiTaskRegressor"]
