from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from studies import plan

from plait.comparing.cells import Cell, make
from plait.comparing.index import rebuild, rows
from plait.comparing.store import Store
from plait.method import resolve
from plait.weights.files import write_json

COST = {"seconds": 1.5, "parameters": 3.0}


@pytest.fixture(scope="module")
def cell() -> Cell:
    return make(plan(), resolve("strategy", "joint"), 0)


def finish(store: Store, cell: Cell) -> None:
    with store.computing(cell) as folder:
        write_json(folder / "cost.json", COST)


def test_a_cell_appears_whole_or_not_at_all(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    with store.computing(cell) as folder:
        write_json(folder / "cost.json", COST)
        assert not store.finished(cell.key)
        assert store.keys() == []
    assert store.finished(cell.key)
    assert store.sound(cell.key)
    assert store.keys() == [cell.key]
    assert store.read(cell.key, "cell.json")["strategy"] == "joint"


def test_an_error_is_kept_and_so_is_what_was_computed(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)

    def stumble() -> None:
        with store.computing(cell) as folder:
            (folder / "checkpoint").write_text("half")
            raise RuntimeError("out\nof luck")

    with pytest.raises(RuntimeError):
        stumble()
    assert not store.finished(cell.key)
    failure = store.failure(cell.key)
    assert failure is not None
    assert failure.error == "RuntimeError: out of luck"
    assert "stumble" in failure.details
    assert (store.working(cell.key) / "checkpoint").exists()
    finish(store, cell)
    assert store.failure(cell.key) is None


def test_a_damaged_cell_is_removed_with_a_warning(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    finish(store, cell)
    (store.path(cell.key) / "cost.json").write_text("{}")
    with pytest.warns(UserWarning, match="altered.*computed again"):
        assert not store.sound(cell.key)
    assert not store.finished(cell.key)


HOLD = """
import sys
from pathlib import Path
from plait.comparing.store import Store
with Store(Path(sys.argv[1])).claim("k") as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_a_claim_holds_until_its_process_dies(tmp_path: Path) -> None:
    store = Store(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"True"
        with store.claim("k") as mine:
            assert not mine
        other.kill()
    with store.claim("k") as mine:
        assert mine


def test_the_index_is_made_again_from_the_folders(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    finish(store, cell)
    rebuild(tmp_path)
    (found,) = rows(tmp_path)
    assert (found["key"], found["seconds"], found["strategy"]) == (cell.key, 1.5, '"joint"')
    (tmp_path / "index.sqlite").unlink()
    assert rows(tmp_path) == [found]
    (tmp_path / "index.sqlite").write_bytes(b"not a database, but of some length")
    assert rows(tmp_path) == [found]
