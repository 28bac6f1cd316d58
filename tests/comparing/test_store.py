from __future__ import annotations

import os
from pathlib import Path

import pytest
from studies import plan

from plait.comparing.cells import Cell, make
from plait.comparing.index import rebuild, rows
from plait.comparing.leases import Lease
from plait.comparing.store import Store
from plait.method import resolve
from plait.weights.files import temporary_beside, write_json

COST = {"seconds": 1.5, "parameters": 3.0}


@pytest.fixture(scope="module")
def cell() -> Cell:
    return make(plan(), resolve("strategy", "joint"), 0)


def claim(store: Store, cell: Cell) -> Lease:
    lease = store.leases.claim(cell.key)
    assert lease is not None
    return lease


def finish(store: Store, cell: Cell) -> None:
    with store.computing(cell, claim(store, cell)) as folder:
        assert folder is not None
        write_json(folder / "cost.json", COST)


def test_a_cell_appears_whole_or_not_at_all(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    lease = claim(store, cell)
    with store.computing(cell, lease) as folder:
        assert folder is not None
        write_json(folder / "cost.json", COST)
        assert not store.finished(cell.key)
        assert store.keys() == []
    assert store.finished(cell.key)
    assert store.sound(cell.key)
    assert store.keys() == [cell.key]
    assert store.read(cell.key, "cell.json")["strategy"] == "joint"


def test_what_an_error_leaves_is_kept_for_the_next_attempt(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)

    def stumble() -> None:
        lease = claim(store, cell)
        try:
            with store.computing(cell, lease) as folder:
                assert folder is not None
                (folder / "work").mkdir()
                (folder / "work" / "checkpoint").write_text("half")
                raise RuntimeError("out\nof luck")
        except RuntimeError as error:
            store.fail(cell.key, error)
            raise
        finally:
            lease.end("failed")

    with pytest.raises(RuntimeError):
        stumble()
    assert not store.finished(cell.key)
    assert store.settled(cell.key)
    failure = store.failure(cell.key)
    assert failure is not None
    assert failure.error == "RuntimeError: out of luck"
    assert "stumble" in failure.details
    with store.computing(cell, claim(store, cell)) as folder:
        assert folder is not None
        assert (folder / "work" / "checkpoint").read_text() == "half"
    assert store.failure(cell.key) is None
    assert not (store.path(cell.key) / "work").exists()  # and not what is no result


def test_a_damaged_cell_is_removed_with_a_warning(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    finish(store, cell)
    (store.path(cell.key) / "cost.json").write_text("{}")
    with pytest.warns(UserWarning, match="altered.*computed again"):
        assert not store.sound(cell.key)
    assert not store.finished(cell.key)


def test_order_is_made_of_what_killed_processes_left(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    finish(store, cell)
    host = store.leases.folder  # of the finished cell: everything but its results
    for left in ("cells/{}.3.part/work", "cells/{}/work", "leases/{}/0001", "locks"):
        (tmp_path / left.format(cell.key)).mkdir(parents=True)
    (tmp_path / "leases" / cell.key / "0001" / "ended").write_text("died")
    store.fail(cell.key, "no luck")
    (tmp_path / "cells" / "other.1.part").mkdir()
    (tmp_path / "cells" / "other.2.part").mkdir()  # what the next attempt goes on from
    stray = temporary_beside(tmp_path / "study.json")
    stray.with_name(stray.name.replace(f"-{os.getpid()}-", "-999999999-")).touch()
    Store(tmp_path).tidy()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")}
    assert left == {f"cells/{cell.key}", "cells/other.2.part"}
    assert not (tmp_path / "cells" / cell.key / "work").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"cells", host.name}


def test_a_part_that_somebody_computes_is_left_alone(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    with store.computing(cell, claim(store, cell)) as folder:
        assert folder is not None
        (store.cells / f"{cell.key}.9.part").mkdir()  # of an owner of whom nothing is known
        Store(tmp_path).tidy()
        assert folder.exists()


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
