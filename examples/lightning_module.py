"""A balancer in a Lightning module: manual optimisation, and ``plait.backward`` for the step.

The balancer is a module, so Lightning moves it with the model and saves it in the checkpoint.
"""

import logging
import warnings
from collections.abc import Mapping

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import plait

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
warnings.filterwarnings("ignore", module="torch")


class TwoTasks(lightning.LightningModule):
    """A shared layer and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False  # new: the step below does it
        self.balancer = plait.resolve("balancing", "pcgrad")  # new
        self.shared = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"clicked": nn.Linear(16, 1), "spent": nn.Linear(16, 1)})

    def losses(self, batch: list[Tensor]) -> Mapping[str, Tensor]:
        x, clicked, spent = batch
        features = self.shared(x)
        guess = {name: head(features)[:, 0] for name, head in self.heads.items()}
        return {
            "clicked": functional.binary_cross_entropy_with_logits(guess["clicked"], clicked),
            "spent": functional.mse_loss(guess["spent"], spent),
        }

    def training_step(self, batch: list[Tensor], number: int) -> None:  # noqa: ARG002
        optimizer = self.optimizers()
        losses = self.losses(batch)
        optimizer.zero_grad()
        plait.backward(  # was: self.manual_backward
            losses,
            self.shared.parameters(),
            self.balancer,
            scaler=getattr(
                self.trainer.precision_plugin, "scaler", None
            ),  # of precision="16-mixed"
        )
        optimizer.step()
        self.log_dict(losses)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Not self.parameters(): the balancer's state is its own affair.
        return torch.optim.Adam([*self.shared.parameters(), *self.heads.parameters()], lr=0.02)


torch.manual_seed(0)
x = torch.randn(256, 8)
rows = TensorDataset(x, (x[:, 0] > 0).float(), x[:, 1] - x[:, 0])
model = TwoTasks()
trainer = lightning.Trainer(
    max_epochs=5,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(rows, batch_size=32, shuffle=True))
print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
print(f"the balancer has weighed {int(model.balancer.updates)} steps")
