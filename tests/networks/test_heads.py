from __future__ import annotations

import pytest
import torch

from plait.batch import Labels
from plait.losses import LOSSES
from plait.networks import Features, Heads, prior_of, priors_of
from plait.networks.heads import prior_bias
from plait.task import Task, TaskSet

TASKS = TaskSet(
    [
        Task(name="type"),
        Task(name="NR.AR"),
        Task(name="size", kind="real", center=5.0, scale=2.0),
        Task(name="colour", kind="classes", classes=("r", "g", "b")),
        Task(name="stars", kind="ordinal", classes=("1", "2", "3", "4")),
        Task(name="visits", kind="counts"),
    ]
)
TARGETS = {
    "type": [1.0, 1, 1, 0],
    "NR.AR": [0.0, 0, 0, 0],
    "size": [0.5, -0.1, 0.2],
    "colour": [0, 0, 1, 0, 1],
    "stars": [3, 2, 2, 1, 0],
    "visits": [3.0, 0, 4],
}


class Source:
    tasks = TASKS

    def labels(self, task, split):
        target = torch.tensor(TARGETS[task])
        return Labels(torch.zeros(len(target)).long(), torch.arange(len(target)), target)


@pytest.mark.parametrize("name", TASKS.names)
def test_a_prior_is_the_prediction_before_any_input(name):
    prior = priors_of(Source())[name]
    task = TASKS[name]
    predicted = LOSSES[task.loss].predict(prior_bias(task, prior).unsqueeze(0).float())[0]
    expected = prior if task.kind in ("classes", "ordinal") else prior[-1]
    torch.testing.assert_close(predicted, expected.float())


def test_priors_are_the_shares_with_half_a_label_for_each_class():
    priors = priors_of(Source())
    assert priors["NR.AR"].tolist() == [0.9, 0.1]
    torch.testing.assert_close(priors["colour"], torch.tensor([3.5, 2.5, 0.5]).double() / 6.5)
    torch.testing.assert_close(priors["size"], torch.tensor([0.2]).double())
    torch.testing.assert_close(priors["visits"], torch.tensor([7.5 / 3.5]).double())


def test_priors_count_the_weights():
    labels = Source().labels("type", "train")
    weighted = Labels(labels.task, labels.rows, labels.target, torch.tensor([1.0, 0, 0, 4]))
    torch.testing.assert_close(
        prior_of(TASKS["type"], weighted), torch.tensor([4.5, 1.5]).double() / 6
    )


def test_heads_start_at_the_priors():
    heads = Heads(TASKS, 4, priors_of(Source()))
    none = Heads(TASKS, 4)
    bias = heads.banks["binary"].get_parameter("bias")
    torch.testing.assert_close(bias[1, 0], torch.tensor(0.1).logit())
    assert (none.banks["binary"].get_parameter("bias") == 0).all()


def test_a_prior_of_no_task_is_refused():
    with pytest.raises(KeyError, match="did you mean 'stars'"):
        Heads(TASKS, 4, {"star": torch.tensor([0.5, 0.5])})


def test_six_hundred_heads():
    tasks = TaskSet(Task(name=f"assay.{i}") for i in range(600))
    heads = Heads(tasks, 16)
    torch.nn.init.normal_(heads.banks["binary"].get_parameter("bias"))
    rows = torch.arange(600) % 7
    records = Labels(torch.arange(600), rows, torch.zeros(600))
    x = torch.randn(7, 16)
    raw = heads({"binary": Features(x, rows)}, {"binary": records})["binary"]
    weight, bias = (heads.banks["binary"].get_parameter(n) for n in ("weight", "bias"))
    torch.testing.assert_close(raw[431], weight[431] @ x[rows[431]] + bias[431])
