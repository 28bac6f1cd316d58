"""Merges of experts that are there already: nothing is trained, every way is measured.

The experts here come from another study; any folders that plait has saved will do, as long as all
were tuned from one base.
"""

import tempfile
from pathlib import Path

import plait
from plait.testing.toys import toy_frame

table = toy_frame(rows=300).select("id", "x1", "x2", "ripe", "price")
place = Path(tempfile.mkdtemp(prefix="plait-example-"))
same = {
    "targets": ["ripe", "price"],
    "encoder": {"trunk": {"mlp": {"width": 16, "depth": 1}}},
    "seeds": 1,
    "id": "id",
}

before = plait.compare(
    table,
    strategies={"base": {"warm_up": {}}, "tuned": "experts"},
    training={"passes": 4},
    out=place / "before",
    **same,
)
for label in ("base", "tuned"):
    before.best(label).save(place / label)

study = plait.compare(
    table,
    experts={"base": place / "base", "models": dict.fromkeys(same["targets"], place / "tuned")},
    strategies={"average": {"merge": "average"}, "ties": {"merge": "ties"}},
    out=place / "merges",
    **same,
)
print(study.leaderboard())
