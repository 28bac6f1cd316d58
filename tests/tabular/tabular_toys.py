"""Settings of networks that learn easy tables in a moment."""

from __future__ import annotations

QUICK = {
    "encoder": {"trunk": {"mlp": {"width": 32, "depth": 1}}},
    "passes": 6,
    "learning_rate": 0.03,
    "random_state": 0,
}
