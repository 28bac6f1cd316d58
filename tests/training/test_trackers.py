from __future__ import annotations

import socket
import sys
from functools import partial

import pytest
from training_toys import Deck, make_network

from plait.balancing.uncertainty import Uncertainty
from plait.training import ConflictMeter, EventLog, fit
from plait.training.trackers import MLflow, TensorBoard, Tracker, Trackio, replay, tracker_for

# What MLflow's database layer says of itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:mlflow", "ignore:The ``noload``"
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Nothing may be sent anywhere."""

    def refuse(self, address):
        pytest.fail(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory):
    """trackio has one folder for a process: that of its first use."""
    folder = tmp_path_factory.mktemp("trackio")
    if "trackio" in sys.modules:
        from trackio.utils import TRACKIO_DIR

        return TRACKIO_DIR
    return folder


@pytest.fixture(scope="module")
def mlflow_folder(tmp_path_factory):
    """One database for all tests: making one takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(params=["tensorboard", "mlflow", "trackio"])
def made(request, tmp_path, trackio_folder, mlflow_folder, monkeypatch):
    """Makes a tracker of a name, and reads its run back: {number's name: {step: value}}."""
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    test = request.node.name
    match request.param:
        case "tensorboard":
            return partial(TensorBoard, tmp_path, every=1), partial(_board, tmp_path)
        case "mlflow":
            make = partial(MLflow, mlflow_folder, experiment=test, every=1)
            return make, partial(_mlflow, mlflow_folder, experiment=test)
    make = partial(Trackio, trackio_folder, project=test, every=1)
    return make, partial(_trackio, project=test)


def _board(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / name)).Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)}
        for tag in found.Tags()["scalars"]
    }


def _mlflow(folder, name, experiment):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    there = client.get_experiment_by_name(experiment).experiment_id
    (run,) = [run for run in client.search_runs([there]) if run.info.run_name == name]
    assert run.info.status == "FINISHED"
    found = {}
    for key in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, key)
        assert len({point.step for point in history}) == len(history)
        found[key] = {point.step: point.value for point in history}
    return found


def _trackio(name, project):
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for row in SQLiteStorage.get_logs(project, name):
        for key, value in row.items():
            if key not in ("timestamp", "step"):
                assert row["step"] not in found.setdefault(key, {})
                found[key][row["step"]] = value
    return found


def test_curves_come_back_as_the_log_has_them(made, network, tasks):
    make, read = made
    tracker, log = make(name="joint"), EventLog(every=1)
    told = [tracker, log, ConflictMeter(tracker, log, refresh=2)]
    deck = Deck(tasks, missing=lambda step: ["real.1"] if step == 1 else [])
    given = {"validate": lambda _: {"real.1": 0.25, "binary.0": float("nan")}}
    fit(network, deck, Uncertainty(), steps=6, observers=told, validate_every=3, **given)
    found = read("joint")
    steps = {event["step"]: event for event in log.events if event["event"] == "step"}
    assert found["loss/real.1"] == pytest.approx(
        {n: event["losses"]["real.1"] for n, event in steps.items() if n != 2}, rel=1e-5
    )
    assert found["weight/binary.0"] == pytest.approx(
        {n: event["weights"]["binary.0"] for n, event in steps.items()}, rel=1e-5
    )
    assert found["valid/real.1"] == {3: 0.25, 6: 0.25}
    assert "valid/binary.0" not in found
    conflicts = {e["step"]: e["cosine"] for e in log.events if e["event"] == "conflict"}
    assert len(conflicts) == 3
    assert found["conflict/cosine"] == pytest.approx(conflicts, rel=1e-5)


def test_a_training_taken_up_again_is_one_run_without_repeated_steps(made, tasks, tmp_path):
    make, read = made
    saved = tmp_path / "checkpoint"

    def run(cut: int | None) -> None:
        def watch(problem, signals):
            if problem.step == cut:
                raise InterruptedError

        given = {"checkpoint": saved, "checkpoint_every": 4, "observers": [make(name="one"), watch]}
        fit(make_network(tasks), Deck(tasks), steps=10, **given)

    with pytest.raises(InterruptedError):
        run(6)
    run(None)
    assert sorted(read("one")["loss/real.1"]) == list(range(1, 11))


def test_figures_are_a_run_of_their_own(made):
    make, read = made
    make(name="joint").figures({"gain": 2.5, "stars [1]/accuracy": 0.75})
    found = read("joint")
    assert found["gain"] == {1: 2.5}
    (other,) = set(found) - {"gain"}
    assert found[other] == {1: 0.75}


def test_a_log_that_is_over_can_be_replayed(made):
    make, read = made
    events = [
        {"event": "step", "step": 5, "losses": {"a": 1.5}},
        {"event": "dropped", "step": 6, "task": "a", "rows": [1]},
        {"event": "conflict", "step": 6, "cosine": None, "share": 1.0},
        {"event": "something new", "step": 7},
    ]
    replay(make(name="old"), events)
    assert read("old") == {"loss/a": {5: 1.5}, "dropped/a": {6: 1.0}, "conflict/share": {6: 1.0}}


def test_names_that_mlflow_refuses_stay_apart(mlflow_folder):
    MLflow(mlflow_folder, name="odd").figures({"a[1]": 1.0, "a(1)": 2.0, "größe": 3.0})
    found = _mlflow(mlflow_folder, "odd", "plait")
    assert sorted(value[1] for value in found.values()) == [1.0, 2.0, 3.0]
    assert set(found) == {"a_1_", "a_1_ 2", "gr__e"}


def test_names_of_runs_lead_nowhere_else(tmp_path):
    TensorBoard(tmp_path / "logs", name="../../up").figures({"a": 1.0})
    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.is_dir()
    assert list(tmp_path.iterdir()) == [tmp_path / "logs"]


def test_trackio_refuses_a_second_folder(trackio_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    Trackio(trackio_folder, project="first").figures({"a": 1.0})
    with pytest.raises(ValueError, match="one folder for a whole process"):
        Trackio(tmp_path / "other").figures({"a": 1.0})


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio"])
def test_a_missing_extra_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setattr("plait.training.trackers.base.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"needs {name}: pip install 'plait\[track\]'$"):
        tracker_for(name, tmp_path, "joint")


def test_trackers_are_known_by_name(tmp_path):
    found = tracker_for("tensorboard", tmp_path, "joint")
    assert isinstance(found, Tracker)
    with pytest.raises(ValueError, match=r"no tracker 'tensorbord'.*tensorboard"):
        tracker_for("tensorbord", tmp_path, "joint")
