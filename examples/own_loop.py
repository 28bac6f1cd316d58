"""``plait.backward`` in a plain torch loop: what changes is marked, everything else stays yours.

Two tasks share a layer; the second has a label for half of the rows only. The gradients of the two
conflict, and PCGrad projects each away from the other.
"""

import torch
from torch import nn
from torch.nn import functional

import plait

torch.manual_seed(0)
x = torch.randn(256, 8)
clicked = (x[:, 0] + 0.3 * torch.randn(256) > 0).float()
spent = -x[:, 0] + x[:, 1]
known = torch.rand(256) < 0.5  # rows whose spending is known

shared = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
heads = nn.ModuleDict({"clicked": nn.Linear(16, 1), "spent": nn.Linear(16, 1)})
optimizer = torch.optim.Adam([*shared.parameters(), *heads.parameters()], lr=0.01)

balancer = plait.resolve("balancing", "pcgrad")  # new

for step in range(200):
    features = shared(x)
    losses = {
        "clicked": functional.binary_cross_entropy_with_logits(
            heads["clicked"](features)[:, 0], clicked
        ),
        # Rows without a label are left out before the loss, never multiplied by zero after it.
        "spent": functional.mse_loss(heads["spent"](features[known])[:, 0], spent[known]),
    }
    optimizer.zero_grad()
    signals = plait.backward(losses, shared.parameters(), balancer)  # was: sum(...).backward()
    optimizer.step()
    if step % 50 == 0:
        told = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"step {step}: {told}; weights {signals.weights.tolist()}")
