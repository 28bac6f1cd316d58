from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.merging.average import Average
from plait.merging.extraction import extract_lora
from plait.merging.pool import Pool, PoolError
from plait.weights.adapter_folders import read_adapter
from plait.weights.adapters import Adapter

Q, K, NORM, EMBED = "l.0.q.weight", "l.0.k.weight", "norm.weight", "embed.weight"


def models(rank: int = 2) -> tuple[dict, dict]:
    """A base and a tuned model: a product, a matrix of full rank, a norm and an embedding."""
    draw = np.random.default_rng(0)
    shapes = {Q: (8, 6), K: (6, 6), NORM: (6,), EMBED: (9, 6)}
    shapes |= {"l.0.q.bias": (8,), "l.0.norm.weight": (6,)}
    base = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tuned = dict(base)
    change = draw.normal(size=(8, rank)) @ draw.normal(size=(rank, 6))
    tuned[Q] = base[Q] + change.astype(np.float32)
    for name in (K, NORM, EMBED):
        tuned[name] = base[name] + draw.normal(size=shapes[name]).astype(np.float32)
    return base, tuned


def test_the_error_is_what_the_left_out_singular_values_are() -> None:
    base, tuned = models()
    change = tuned[K].astype(np.float64) - base[K]
    for rank in (1, 3, 6):
        own = extract_lora(Pool({"t": tuned}, base), rank=rank).modules["l.0.k"]
        error = change - own["lora_B.weight"] @ own["lora_A.weight"]
        left = np.linalg.svd(change, compute_uv=False)[rank:]
        np.testing.assert_allclose((error**2).sum(), (left**2).sum(), rtol=1e-4, atol=1e-10)
        np.testing.assert_allclose(
            np.linalg.norm(own["lora_A.weight"], axis=1),
            np.linalg.norm(own["lora_B.weight"], axis=0), rtol=1e-5,
        )  # fmt: skip


def test_an_adapter_as_wide_as_the_change_gives_the_model_back(tmp_path: Path) -> None:
    base, tuned = models()
    found = extract_lora(Pool({"t": tuned}, base))
    assert found.config["rank_pattern"]["l.0.k"] == 6
    found.write(tmp_path / "adapter")
    assert set(read_adapter(tmp_path / "adapter").modules) == {"l.0.q", "l.0.k"}
    back = Average().merge(Pool({"t": Adapter(tmp_path / "adapter")}, base)).tensors
    for name, value in tuned.items():
        np.testing.assert_allclose(back[name], value, atol=1e-5)


def test_modules_are_saved_whole_where_they_have_changed() -> None:
    base, tuned = models()
    found = extract_lora(Pool({"t": tuned}, base))
    assert found.config["modules_to_save"] == ["embed", "norm"]
    assert set(found.saved) == {EMBED, NORM, "l.0.norm.weight"}
    np.testing.assert_array_equal(found.saved[NORM], tuned[NORM])
    still = {**tuned, NORM: base[NORM], EMBED: base[EMBED], K: base[K]}
    found = extract_lora(Pool({"t": still}, base))
    assert not found.saved
    assert set(found.modules) == {"l.0.q"}


def test_a_bias_that_has_no_place_is_refused_or_left() -> None:
    base, tuned = models()
    tuned["l.0.q.bias"] = base["l.0.q.bias"] + 1
    pool = Pool({"t": tuned}, base)
    with pytest.raises(PoolError, match=r"'l\.0\.q\.bias' has changed"):
        extract_lora(pool)
    assert "l.0.q.bias" not in extract_lora(pool, biases="leave").saved


def test_what_gives_no_adapter_is_refused() -> None:
    base, tuned = models()
    with pytest.raises(PoolError, match="no matrix has changed"):
        extract_lora(Pool({"t": dict(base)}, base))
    with pytest.raises(PoolError, match="one tuned model and its base"):
        extract_lora(Pool({"t": tuned, "u": tuned}, base))
    with pytest.raises(PoolError, match="one tuned model and its base"):
        extract_lora(Pool({"t": tuned}))
    with pytest.raises(ValueError, match="at least 1"):
        extract_lora(Pool({"t": tuned}, base), rank=0)


@pytest.mark.slow
def test_peft_reads_it(tmp_path: Path) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")

    class Toy(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.q = torch.nn.Linear(6, 8, bias=False)
            self.k = torch.nn.Linear(8, 4, bias=False)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.k(self.q(x))

    torch.manual_seed(0)
    start, tuned = Toy(), Toy()
    tuned.k.weight.data = start.k.weight.data + torch.outer(torch.ones(4), torch.arange(8.0))
    base, model = ({n: v.numpy() for n, v in m.state_dict().items()} for m in (start, tuned))
    extract_lora(Pool({"t": model}, base)).write(tmp_path)
    x = torch.randn(5, 6)
    with torch.no_grad():
        wanted = tuned(x)
        found = peft.PeftModel.from_pretrained(start, str(tmp_path))(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
