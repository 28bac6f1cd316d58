from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES

from plait.merging.pool import Pool


@pytest.fixture
def pool() -> Pool:
    """A base and three models in float64: two matrices, a vector, a number and a counter."""
    draw = np.random.default_rng(3)
    base = {name: draw.normal(size=shape) for name, shape in SHAPES.items()}
    models = {
        model: {
            name: value + 0.1 * draw.standard_t(3, size=value.shape) for name, value in base.items()
        }
        for model in ("x", "y", "z")
    }
    for number, state in enumerate((base, *models.values())):
        state["steps"] = np.asarray(number)
    return Pool(models, base)
