"""``plait.MultiTaskEstimator``: a scikit-learn estimator for several columns of mixed kinds.

Some labels are missing, the inputs hold words and gaps, and everything composes as usual.
"""

import tempfile
from pathlib import Path

from sklearn.model_selection import GridSearchCV, cross_val_score

import plait
from plait.testing.toys import toy_frame

table = toy_frame(rows=300)  # any polars, pandas or Arrow table
targets = ["ripe", "price", "stars"]
X, Y = table.drop("id", "grade", "sold", *targets), table.select(targets)
print(f"missing labels: {Y.null_count().row(0, named=True)}")

estimator = plait.MultiTaskEstimator(
    encoder={"trunk": {"mlp": {"width": 32, "depth": 1}}},
    passes=10,
    learning_rate=0.01,
    random_state=0,
)
print("each fold:", cross_val_score(estimator, X, Y, cv=3).round(2))

search = GridSearchCV(estimator, {"sharing": ["hard", {"mmoe": {"experts": 4}}]}, cv=2)
best = search.fit(X, Y).best_estimator_
print("the better way to share:", best.sharing)
for task in best.tasks_:
    print(f"{task.name}: {task.kind}")
print(best.predict(X).head(3))

with tempfile.TemporaryDirectory() as folder:
    path = best.save(Path(folder) / "model")
    assert plait.MultiTaskEstimator.load(path).predict(X).equals(best.predict(X))
