from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.weights.files import DamagedError
from plait.weights.states import read_state, write_state


def test_tensors_round_trip(tmp_path: Path) -> None:
    state = {"w": np.arange(6.0).reshape(2, 3).T, "n": np.array([3], np.int64)}
    write_state(tmp_path / "a.safetensors", state, {"from": "a test"})
    back = read_state(tmp_path / "a.safetensors")
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_state(path, {"w": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DamagedError, match=r"a.safetensors: not a whole safetensors file \(50"):
        read_state(path)
