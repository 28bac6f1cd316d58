from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss, mean_poisson_deviance

from plait.losses import LOSSES, loss_of
from plait.task import KINDS

generator = np.random.default_rng(0)


def raw_and_target(name: str, rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    width = {"cross_entropy": 4, "cumulative": 3, "cosine": 3}.get(name, 1)
    raw = torch.from_numpy(generator.normal(size=(rows, width)))
    target = {
        "bce": generator.integers(0, 2, rows).astype(float),
        "cross_entropy": generator.integers(0, 4, rows),
        "cumulative": generator.integers(0, 4, rows),
        "poisson": generator.poisson(1.5, rows).astype(float),
        "balanced_bce": generator.integers(0, 2, rows).astype(float),
        "log_depth": generator.gamma(2.0, 2.0, rows),
        "absolute_depth": generator.gamma(2.0, 2.0, rows),
        "cosine": generator.normal(size=(rows, 3)),
    }.get(name, generator.normal(size=rows))
    return raw, torch.from_numpy(np.asarray(target))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_row_finite_and_never_negative(name):
    raw, target = raw_and_target(name)
    value = LOSSES[name].per_row(raw, target)
    assert value.shape == (40,)
    assert value.dtype == torch.float64
    assert torch.isfinite(value).all()
    assert (value >= 0).all()
    alone = torch.cat([LOSSES[name].per_row(raw[i : i + 1], target[i : i + 1]) for i in range(40)])
    assert torch.equal(value, alone)  # a row's loss does not depend on its neighbours


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    raw, target = raw_and_target(name, rows=5)
    raw.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: LOSSES[name].per_row(r, target), raw)


def test_binary_and_classes_agree_with_sklearn():
    raw, target = raw_and_target("bce")
    expected = log_loss(target, expit(raw[:, 0].numpy()))
    assert LOSSES["bce"].per_row(raw, target).mean().item() == pytest.approx(expected, rel=1e-12)
    raw, target = raw_and_target("cross_entropy")
    expected = log_loss(target, raw.softmax(1).numpy(), labels=range(4))
    found = LOSSES["cross_entropy"].per_row(raw, target).mean().item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_poisson_is_half_the_deviance_and_zero_at_a_perfect_fit():
    raw, target = raw_and_target("poisson")
    found = LOSSES["poisson"].per_row(raw, target).mean().item()
    rate = LOSSES["poisson"].predict(raw).numpy()
    assert found == pytest.approx(mean_poisson_deviance(target, rate) / 2, rel=1e-12)
    perfect = torch.tensor([[0.0], [np.log(3.0)]], dtype=torch.float64)
    value = LOSSES["poisson"].per_row(perfect, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert value.abs().max() < 1e-12


def test_ordinal_probabilities_sum_to_one_even_where_thresholds_cross():
    raw = torch.tensor([[2.0, 3.0, -1.0], [-1.0, 4.0, 5.0], [0.0, 0.0, 0.0]])
    found = LOSSES["cumulative"].predict(raw)
    assert found.shape == (3, 4)
    assert torch.allclose(found.sum(1), torch.ones(3))
    assert (found >= 0).all()


def test_ordinal_loss_prefers_the_nearer_class():
    raw = torch.tensor([[6.0, 6.0, -6.0]])  # says class 2
    losses = [LOSSES["cumulative"].per_row(raw, torch.tensor([y])).item() for y in range(4)]
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < losses[3]
    assert LOSSES["cumulative"].predict(raw).argmax(1).tolist() == [2]


@pytest.mark.parametrize("name", LOSSES)
def test_what_users_see_is_a_probability_a_mean_or_a_rate(name):
    raw, _ = raw_and_target(name)
    seen = LOSSES[name].predict(raw)
    assert len(seen) == 40
    if name in ("bce", "cross_entropy", "cumulative"):
        assert ((seen >= 0) & (seen <= 1)).all()
    if name == "poisson":
        assert (seen > 0).all()
    if name == "cosine":
        torch.testing.assert_close(seen.norm(dim=1), torch.ones(40).double())
    assert seen.ndim == (2 if name in ("cross_entropy", "cumulative", "cosine") else 1)


def test_only_squared_errors_are_gaussian():
    assert [name for name, loss in LOSSES.items() if loss.gaussian] == ["squared"]


def test_a_loss_is_found_by_name_and_must_fit_the_kind():
    assert loss_of("huber", "real").name == "huber"
    with pytest.raises(ValueError, match="no loss 'hubre'; did you mean 'huber'"):
        loss_of("hubre", "real")
    with pytest.raises(ValueError, match="does not fit kind 'binary'; it takes: bce"):
        loss_of("huber", "binary")
    assert all(loss_of(kind.loss, name) for name, kind in KINDS.items())
