"""How per-task losses become gradients, exactly and at the lowest cost."""

from plait.training.engine.backward import backward
from plait.training.engine.combine import (
    Blocks,
    accumulate,
    added,
    combine,
    diagonal,
    gramian,
    task_gradients,
)
from plait.training.engine.gather import Engine, gather
from plait.training.engine.gathered import Gathered
from plait.training.engine.processes import Processes, world
from plait.training.engine.proxy import at_features, at_last, place_of
from plait.training.engine.roots import (
    NotFiniteError,
    Root,
    roots_of,
    signals_of,
    weights_of,
)
from plait.training.engine.samples import Sample, pooled

__all__ = [
    "Blocks",
    "Engine",
    "Gathered",
    "NotFiniteError",
    "Processes",
    "Root",
    "Sample",
    "accumulate",
    "added",
    "at_features",
    "at_last",
    "backward",
    "combine",
    "diagonal",
    "gather",
    "gramian",
    "place_of",
    "pooled",
    "roots_of",
    "signals_of",
    "task_gradients",
    "weights_of",
    "world",
]
