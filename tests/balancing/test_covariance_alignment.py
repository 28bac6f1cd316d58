from __future__ import annotations

import pytest
import torch

from plait.balancing.base import Signals
from plait.balancing.covariance_alignment import CovarianceAlignment, reweighting, similarity
from plait.balancing.ema import Ema
from plait.training import fit


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_equals_the_papers_algorithm_with_left_singular_vectors(rank: int):
    theta = drawn(4, 7)
    left, _, _ = torch.linalg.svd(theta.T, full_matrices=False)
    wanted = torch.stack([(row @ left[:, :rank]).norm() for row in theta])
    torch.testing.assert_close(reweighting(theta, rank), wanted)


def test_with_all_directions_the_weight_is_the_length():
    theta = drawn(3, 7)
    torch.testing.assert_close(reweighting(theta, 3), theta.norm(dim=1))


def test_noise_weighs_less_than_its_twin_with_clean_labels():
    x = drawn(400, 10)
    signal, other = x[:, 0] + x[:, 1], x[:, 0] - 0.3 * x[:, 1]
    noise = signal[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    found = CovarianceAlignment.of(x, {"a": signal, "b": other, "twin": noise}, rank=1).weights
    assert found["twin"] < 0.3 * found["a"]
    assert sum(found.values()) == pytest.approx(3.0)


def test_units_and_missing_labels_do_not_matter_much():
    x = drawn(400, 5)
    y = x[:, 0] + 0.1 * drawn(400, seed=2)
    plain = CovarianceAlignment.of(x, {"a": y, "b": y}, rank=1).weights
    holed = y.clone()
    holed[::2] = torch.nan
    other = CovarianceAlignment.of(x, {"a": 1e3 * y + 5, "b": holed}, rank=1).weights
    assert other["a"] == pytest.approx(plain["a"], rel=0.05)
    assert other["b"] == pytest.approx(plain["b"], rel=0.05)


def test_weighs_by_name_and_survives_a_recipe():
    s = Signals.of({"b": 1.0, "a": 1.0})
    assert CovarianceAlignment(weights={"a": 0.5, "b": 1.5})(s).tolist() == [1.5, 0.5]
    assert CovarianceAlignment()(s).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="lacks b"):
        CovarianceAlignment(weights={"a": 0.5})(s)


def test_similarity_is_that_of_the_covariances():
    x, rotation = (
        drawn(50, 4) * torch.tensor([3.0, 2.0, 1.0, 0.5]),
        torch.linalg.qr(drawn(4, 4, seed=3))[0],
    )
    y = drawn(60, 4, seed=4)
    one = similarity(x, y)
    assert similarity(x @ rotation, y @ rotation) == pytest.approx(one)
    assert similarity(y, x) == pytest.approx(one)
    assert similarity(5 * x, y) == pytest.approx(one)
    values = torch.linalg.svdvals(x).square()
    assert similarity(x, x, keep=1 - 1e-12) == pytest.approx(float(values.norm() / values.sum()))
    apart = torch.zeros(50, 4, dtype=torch.float64)
    apart[:, 3] = drawn(50)
    flat = x.clone()
    flat[:, 3] = 0
    assert similarity(flat, apart) == pytest.approx(0.0, abs=1e-12)


def test_directions_past_the_share_kept_are_cut():
    x = torch.diag(torch.tensor([10.0, 1.0, 1e-3])).double()
    whole, cut = similarity(x, x, keep=0.99999999), similarity(x, x, keep=0.9)
    assert cut == pytest.approx(1.0)
    assert whole == pytest.approx(10001**0.5 / 101 * 1.0, rel=0.02)


def test_settings_are_checked():
    x = drawn(20, 3)
    with pytest.raises(ValueError, match="between 1 and 2 tasks"):
        CovarianceAlignment.of(x, {"a": x[:, 0], "b": x[:, 1]}, rank=3)
    with pytest.raises(ValueError, match="task 'b' do not vary"):
        CovarianceAlignment.of(x, {"a": x[:, 0], "b": torch.ones(20)}, rank=1)
    with pytest.raises(ValueError, match="must not be negative"):
        CovarianceAlignment(weights={"a": -1.0})
    with pytest.raises(ValueError, match="rank must be at least 1"):
        CovarianceAlignment(rank=0)


def test_a_wrapper_informs_what_it_wraps_and_weights_given_stay():
    theta = {"a": drawn(1, 4), "b": drawn(2, 4, seed=1)}
    inner = CovarianceAlignment(rank=2).informed(theta)
    around = Ema(balancer=CovarianceAlignment(rank=2))
    assert around.needs_table
    assert around.informed(theta).balancer.weights == inner.weights
    assert not around.informed(theta).needs_table
    assert inner.informed({}) is inner


def test_the_rows_of_a_task_with_classes_count_by_their_common_length():
    one, two = drawn(1, 6), drawn(3, 6, seed=1)
    found = CovarianceAlignment(rank=2).informed({"a": one, "b": two}).weights
    left, _, _ = torch.linalg.svd(torch.cat([one, two]).T, full_matrices=False)
    sizes = torch.stack([(rows @ left[:, :2]).norm() for rows in (one, two)])
    assert list(found.values()) == pytest.approx((sizes / sizes.mean()).tolist())


def test_fit_refuses_it_before_it_has_weights():
    with pytest.raises(ValueError, match="covariance_alignment is made from the training data"):
        fit(None, None, CovarianceAlignment(), steps=1)
