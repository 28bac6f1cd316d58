"""An encoder of your own: any module that takes the parts of a batch and gives a vector per row.

It is written down as ``module:Class`` with its settings, so that a study's file can name it and a
saved network finds it again.
"""

import tempfile

import torch
from torch import Tensor, nn

from plait import Network, Task, TaskSet, resolve
from plait.batch import Parts
from plait.networks import build_network
from plait.testing.toys import toy_batch, toy_inputs


class Fourier(nn.Module):
    """Sines and cosines of random projections of the numeric inputs."""

    def __init__(self, *, width: int = 32, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("directions", scale * torch.randn(4, width // 2, generator=generator))
        self.mix = nn.Linear(width, width)
        self.width = width

    def forward(self, parts: Parts) -> Tensor:
        """[rows of all parts, width]."""
        rows = torch.cat([part["numeric"] for part in parts.values()]) @ self.directions
        return self.mix(torch.cat([rows.sin(), rows.cos()], 1)).relu()


if __name__ == "__main__":
    tasks = TaskSet([Task(name="ripe"), Task(name="price", kind="real")])
    network = build_network(
        inputs=toy_inputs(),
        tasks=tasks,
        encoder={"module": "custom_encoder:Fourier", "settings": {"width": 16}},
        sharing=resolve("sharing", "hard"),
        seed=0,
    )
    batch = toy_batch(tasks)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        again = Network.from_pretrained(folder)
    one, two = (n.predict(batch.parts, batch.labels) for n in (network, again))
    print({group: torch.equal(values, two[group]) for group, values in one.items()})
