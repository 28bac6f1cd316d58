"""The example service: it answers as the model does, and refuses what the model cannot read."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from fastapi import HTTPException

import plait
from plait.testing.toys import toy_frame

PATH = Path(__file__).parents[1] / "examples" / "serve.py"
INPUTS = ["x0", "x1", "colour"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    table = toy_frame(rows=120)
    estimator = plait.MultiTaskEstimator(passes=1, random_state=0)
    estimator.fit(table.select(INPUTS), table.select("ripe", "price"))
    return estimator.save(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def asked() -> dict:
    return {"rows": toy_frame(rows=3, seed=1).select(INPUTS).to_dicts()}


def test_a_request_is_a_table_and_the_answer_its_predictions(model, asked):
    service = runpy.run_path(str(PATH))["Service"](str(model))
    service.setup("cpu")
    said = service.encode_response(service.predict(service.decode_request(asked)))
    wanted = plait.load(model).predict(toy_frame(rows=3, seed=1).select(INPUTS))
    assert said == {"predictions": wanted.to_dicts()}
    with pytest.raises(HTTPException, match="send"):
        service.decode_request({"row": []})
    with pytest.raises(HTTPException, match="no column 'colour'"):
        service.predict(service.decode_request({"rows": [{"x0": 1.0, "x1": 2.0}]}))


@pytest.mark.slow
def test_the_server_answers(model, asked):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(PATH), str(model), "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert server.poll() is None
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        said = httpx.post(f"{url}/predict", json=asked, timeout=30)
        assert said.status_code == 200
        assert [set(row) for row in said.json()["predictions"]] == [{"ripe", "price"}] * 3
        wrong = httpx.post(f"{url}/predict", json={"rows": [{"x0": 1.0}]}, timeout=30)
        assert wrong.status_code == 400
        assert "no column" in wrong.json()["detail"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
