"""Experiment trackers as observers: curves per task, weights and conflict, on this machine only.

Give one to ``plait.fit``, ``plait.train`` or an estimator: ``observers=[TensorBoard("logs")]``.
"""

from plait.training.trackers.base import Tracker, numbers_of, replay, tracker_for
from plait.training.trackers.mlflow import MLflow
from plait.training.trackers.tensorboard import TensorBoard
from plait.training.trackers.trackio import Trackio

__all__ = ["MLflow", "TensorBoard", "Tracker", "Trackio", "numbers_of", "replay", "tracker_for"]
