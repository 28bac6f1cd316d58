"""A balancer in a Hugging Face Trainer: a subclass whose training step calls ``plait.backward``.

The model returns its losses by task; the Trainer keeps its schedule, clipping, logging and
checkpoints. Beside the model's, save the balancer's state: ``balancer.state_dict()``.
"""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

import plait
from plait.balancing import Balancer


class TwoTasks(nn.Module):
    """A shared layer and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"clicked": nn.Linear(16, 1), "spent": nn.Linear(16, 1)})

    def forward(self, x: Tensor, clicked: Tensor, spent: Tensor) -> dict[str, Any]:
        features = self.shared(x)
        guess = {name: head(features)[:, 0] for name, head in self.heads.items()}
        losses = {
            "clicked": functional.binary_cross_entropy_with_logits(guess["clicked"], clicked),
            "spent": functional.mse_loss(guess["spent"], spent),
        }
        return {"loss": torch.stack(list(losses.values())).sum(), "losses": losses}


class BalancedTrainer(Trainer):
    """A Trainer that balances the losses its model returns."""

    def __init__(self, balancer: Balancer, **given: Any) -> None:
        super().__init__(**given)
        self.balancer = balancer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Fill ``.grad``; the optimizer's step is the Trainer's."""
        del num_items_in_batch
        model.train()
        with self.compute_loss_context_manager():
            losses = model(**self._prepare_inputs(inputs))["losses"]
        share = 1 / self.current_gradient_accumulation_steps  # of the optimizer's step
        plait.backward(
            losses,
            self.model.shared.parameters(),
            self.balancer,
            share=share,
            scaler=self.accelerator.scaler,  # None but in float16
        )
        return share * torch.stack(list(losses.values())).sum().detach()


torch.manual_seed(0)
x = torch.randn(256, 8)
rows = [{"x": row, "clicked": (row[0] > 0).float(), "spent": row[1] - row[0]} for row in x.unbind()]
with tempfile.TemporaryDirectory() as folder:
    trainer = BalancedTrainer(
        balancer=plait.resolve("balancing", "pcgrad"),
        model=TwoTasks(),
        args=TrainingArguments(
            output_dir=folder,
            num_train_epochs=5,
            per_device_train_batch_size=32,
            learning_rate=0.02,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
    )
    done = trainer.train()
print(f"mean loss {done.training_loss:.3f} over {done.global_step} steps")
print(f"the balancer has weighed {int(trainer.balancer.updates)} steps")
