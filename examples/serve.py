"""A saved model as a service, with litserve (``pip install litserve``): rows in, predictions out.

    python serve.py model --port 8000
    curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"rows": [{"x0": 1.5}]}'

``model`` is a folder of ``plait train``, of ``best().save`` or of an estimator's ``save``. Without
one, a small model is trained and asked once, with no server between.
"""

import argparse
import tempfile
from typing import Any

import litserve
import polars as pl
from fastapi import HTTPException

import plait
from plait.data import DataError
from plait.testing.toys import toy_frame


class Service(litserve.LitAPI):
    """One model, loaded by every worker when it starts."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        self.model = plait.load(self.folder)

    def decode_request(self, request: dict[str, Any]) -> pl.DataFrame:
        """``{"rows": [{column: value}, …]}`` as a table; what some rows leave out is missing."""
        rows = request.get("rows")
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
            raise HTTPException(400, 'send {"rows": [{"column": value, …}, …]}')
        return pl.DataFrame(rows, infer_schema_length=None)

    def predict(self, x: pl.DataFrame) -> pl.DataFrame:
        """The predictions for all rows."""
        try:
            return self.model.predict(x)
        except DataError as error:
            raise HTTPException(400, str(error)) from error

    def encode_response(self, output: pl.DataFrame) -> dict[str, Any]:
        """A row of predictions for each row."""
        return {"predictions": output.to_dicts()}


def demonstrate() -> None:
    """Train a small model and ask it as a request would."""
    table = toy_frame(rows=200).select("x0", "x1", "x2", "x3", "ripe", "price")
    inputs = table.drop("ripe", "price")
    estimator = plait.MultiTaskEstimator(passes=3, random_state=0)
    estimator.fit(inputs, table.select("ripe", "price"))
    with tempfile.TemporaryDirectory() as folder:
        service = Service(str(estimator.save(f"{folder}/model")))
        service.setup("cpu")
        asked = service.decode_request({"rows": inputs.head(2).to_dicts()})
        print(service.encode_response(service.predict(asked)))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Serve a saved model.")
    options.add_argument("folder", nargs="?", help="the model; without it, one is tried out")
    options.add_argument("--port", type=int, default=8000)
    given = options.parse_args()
    if given.folder is None:
        demonstrate()
    else:
        server = litserve.LitServer(Service(given.folder), accelerator="cpu")
        server.run(host="127.0.0.1", port=given.port, generate_client_file=False)
