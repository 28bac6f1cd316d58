"""A table in memory, three ways to predict three of its columns, and the best model on new rows."""

import tempfile
from pathlib import Path

import plait
from plait.testing.toys import toy_frame

table = toy_frame(rows=300)  # any polars, pandas or Arrow table

study = plait.compare(
    table.drop("grade", "sold"),
    targets=["ripe", "price", "stars"],
    strategies={
        "joint": {},
        "experts": {"joint": {"sharing": {"mmoe": {"experts": 4}}, "balancing": "uncertainty"}},
    },
    training=plait.Training(passes=5),
    seeds=1,
)
print(study.leaderboard())
print(study.failures())

with tempfile.TemporaryDirectory() as folder:
    model = Path(folder) / "model"
    study.best().save(model)
    print(plait.load(model).predict(toy_frame(rows=5, seed=1)))
