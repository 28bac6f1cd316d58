"""Training several tasks in one network: backward, the visible loop, and the whole recipe."""

from plait.settings import Training
from plait.training.engine import Engine, backward
from plait.training.fit import fit
from plait.training.loop import Run, TrainingError
from plait.training.measuring import Losses, losses_of
from plait.training.meters import ConflictMeter
from plait.training.observers import EventLog, Observer, progress
from plait.training.optim import RowwiseAdamW
from plait.training.train import evaluate, train

__all__ = [
    "ConflictMeter",
    "Engine",
    "EventLog",
    "Losses",
    "Observer",
    "RowwiseAdamW",
    "Run",
    "Training",
    "TrainingError",
    "backward",
    "evaluate",
    "fit",
    "losses_of",
    "progress",
    "train",
]
