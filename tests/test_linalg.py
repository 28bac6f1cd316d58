from __future__ import annotations

import torch

from plait.linalg import cosines


def test_cosines_do_not_depend_on_lengths():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    unit = torch.nn.functional.normalize(rows, dim=1)
    long = rows * torch.tensor([1e-6, 1.0, 1e3, 1e6])[:, None]
    torch.testing.assert_close(cosines(long @ long.T), unit @ unit.T)


def test_a_zero_vector_has_no_cosine_and_rounding_stays_in_range():
    rows = torch.tensor([[1.0, 1 / 3], [3.0, 1.0], [0.0, 0.0]])
    found = cosines(rows @ rows.T)
    assert found[:2, :2].max() <= 1
    assert found[2].isnan().all()
