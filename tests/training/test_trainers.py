"""The trainers of others, as in the examples: accumulation and lower precision are exact there."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import plait
from plait.balancing.nash_mtl import NashMTL

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("transformers")
pytest.importorskip("lightning")
pytestmark = pytest.mark.slow


@cache
def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def hugging(tmp_path: Path, balancer: str, batch: int, pieces: int, **given: Any) -> Tensor:
    """The weights after three steps of plain descent."""
    space = example("hf_trainer")
    torch.manual_seed(1)
    model = space["TwoTasks"]()
    args = space["TrainingArguments"](
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=pieces,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="sgd",
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **given,
    )
    trainer = space["BalancedTrainer"](
        balancer=plait.resolve("balancing", balancer),
        model=model,
        args=args,
        train_dataset=space["rows"],
    )
    trainer.train()
    assert int(trainer.balancer.updates) == 3 * pieces
    return flat(model)


def test_hugging_faces_accumulation_is_a_mean_over_the_pieces(tmp_path):
    whole = hugging(tmp_path, "equal", 32, 1)
    torch.testing.assert_close(hugging(tmp_path, "equal", 8, 4), whole, rtol=1e-5, atol=1e-6)


def test_hugging_faces_bfloat16_is_as_exact_as_bfloat16(tmp_path):
    whole = hugging(tmp_path, "nash_mtl", 32, 1)
    lower = hugging(tmp_path, "nash_mtl", 32, 1, bf16=True)
    assert not torch.equal(whole, lower)
    torch.testing.assert_close(lower, whole, rtol=0.05, atol=0.02)


def test_lightnings_scaler_changes_nothing_but_the_precision():
    from lightning.pytorch.plugins.precision import MixedPrecision

    space = example("lightning_module")
    found = []
    for plugins in ([], [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]):
        torch.manual_seed(1)
        model = space["TwoTasks"]()
        model.balancer = NashMTL()  # not homogeneous: a scaled gradient would show
        before = flat(model)
        trainer = space["lightning"].Trainer(
            max_steps=5,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=plugins,
        )
        trainer.fit(model, space["DataLoader"](space["rows"], batch_size=64))
        assert int(model.balancer.updates) == 5
        found.append(flat(model) - before)
    far = float((found[1] - found[0]).norm() / found[0].norm())
    assert 0 < far < 0.1
