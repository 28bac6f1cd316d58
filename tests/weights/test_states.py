from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from plait.weights.files import DamagedError
from plait.weights.states import read_header, read_state, write_state


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


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "a.safetensors", {"w": np.array([1.0, np.nan])})
    with pytest.raises(DamagedError, match=r"a.safetensors: 'w' holds NaN"):
        read_state(tmp_path / "a.safetensors")


def test_a_header_is_read_without_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_state(path, {"w": np.zeros((2, 3)), "n": np.zeros(0, np.int64)}, {"from": "a test"})
    found = read_header(path)
    assert found.tensors == {"w": ("F64", (2, 3)), "n": ("I64", (0,))}
    assert found.metadata == {"from": "a test"}
    with pytest.raises(DamagedError, match=r"b.safetensors is missing; copy the file again"):
        read_header(tmp_path / "b.safetensors")


def test_altered_headers_are_refused_or_read_the_same(tmp_path: Path) -> None:
    """Any byte of a header changed: an error of ours, or as many numbers as before."""
    path = tmp_path / "a.safetensors"
    write_state(path, {"weight": np.arange(6.0), "bias": np.zeros(2, np.float32)})
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(whole)
        data[random.integers(len(whole) - 56)] = random.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(DamagedError):
            assert sum(value.nbytes for value in read_state(path).values()) == 56


def test_bfloat16_is_read_as_float32(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    brief, plain = torch.randn(3, 4).bfloat16(), torch.arange(4).half()
    save_file({"brief": brief, "plain": plain}, tmp_path / "m.safetensors")
    found = read_state(tmp_path / "m.safetensors")
    assert np.array_equal(found["brief"], brief.float().numpy())
    assert np.array_equal(found["plain"], plain.numpy())
    assert found["plain"].dtype == np.float16
