from __future__ import annotations

import pytest
import torch
from gradients import bound, jacobian, signals

from plait.balancing.cr_mogm import CRMOGM
from plait.balancing.graddrop import GradDrop
from plait.balancing.mgda import MGDA


def test_smooths_the_weights_of_the_inner_method_over_steps():
    balancer, w = CRMOGM(smoothing=0.7), None
    for step in range(6):
        s = signals(jacobian(3, 5, step), step=step)
        new = MGDA()(s)
        w = new if w is None else 0.7 * w + 0.3 * new
        torch.testing.assert_close(bound(balancer, s)(s), w)
        balancer.advance(s)
        torch.testing.assert_close(w.sum(), torch.tensor(1.0).double())


def test_without_smoothing_it_is_the_inner_method():
    balancer = CRMOGM(balancer="pcgrad", smoothing=0.0)
    for step in range(3):
        s = signals(jacobian(3, 2, step), step=step)
        torch.testing.assert_close(bound(balancer, s)(s), balancer.balancer(s))
        balancer.advance(s)


def test_a_task_that_comes_late_starts_from_its_own_first_weight():
    balancer = bound(CRMOGM(), signals(jacobian(3, 5, 0)))
    balancer.advance(signals(jacobian(2, 5, 0)))
    late = signals(jacobian(3, 5, 1))
    torch.testing.assert_close(balancer(late)[2], MGDA()(late)[2])


def test_what_gives_no_weights_is_refused():
    with pytest.raises(ValueError, match="graddrop has not"):
        CRMOGM(balancer=GradDrop())
    with pytest.raises(ValueError, match="below 1"):
        CRMOGM(smoothing=1.0)
