"""Small networks to adapt, and adapters away from their start."""

from __future__ import annotations

import torch
from torch import nn

from plait.adapting import AdaptedTrunk, Adapter, Routing, build_adapted
from plait.batch import Input, Records
from plait.networks import Network, build_network
from plait.sharing import Hard
from plait.task import Task, TaskSet

TASKS = TaskSet(Task(name=name) for name in ("type", "NR.AR", "a/b"))
TINY = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip
TEXT = {"text.review": Input(key="text.review", type="text", shape=(-1,), sizes=(41,))}


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """5 → 6 → 3."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def attached(
    adapter: Adapter, base: nn.Module, tasks: TaskSet = TASKS
) -> tuple[nn.ModuleDict, Routing]:
    """The adapter in a module, at the sites it chooses."""
    routing = Routing()
    return adapter.attach(adapter.choose(base), tasks, routing), routing


def filled(banks: nn.Module, seed: int = 0, std: float = 0.3) -> nn.Module:
    """Every trained number moved by noise."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in banks.parameters():
        parameter.data += std * torch.randn(
            parameter.shape, generator=generator, dtype=parameter.dtype
        )
    return banks


def routed(
    base: nn.Module, banks: nn.ModuleDict, routing: Routing, x: torch.Tensor, task: torch.Tensor
) -> torch.Tensor:
    """What an adapted module says, with all that its banks make once a forward."""
    present = torch.zeros(len(TASKS), dtype=torch.bool).index_fill(0, task, True)
    with routing.to(task, {bank: bank.once(present) for bank in banks.values()}):
        found: torch.Tensor = base(x)
    return found


def bert(adapter: Adapter | None = None, tasks: TaskSet = TASKS, **settings: object) -> Network:
    """A network on a tiny transformer, adapted and moved where an adapter is given."""
    trunk = {"mlp": {"depth": 0}}
    text = {"transformer": {"config": TINY, "frozen": True, "max_length": 16, **settings}}
    network = build_network(
        inputs=TEXT, tasks=tasks, encoder={"text": text, "trunk": trunk}, sharing=Hard(), seed=0
    )
    if adapter is None:
        return network
    found = build_adapted(network, adapter, 0)
    filled(trunk_of(found).banks)
    return found


def trunk_of(network: Network) -> AdaptedTrunk:
    assert isinstance(network.trunk, AdaptedTrunk)
    return network.trunk


def model_of(network: Network) -> nn.Module:
    """The transformer inside a network that is not adapted."""
    found: nn.Module = network.trunk.get_submodule("encoder.stems.text.model")
    return found


def texts(*sizes: int) -> torch.Tensor:
    """Texts of these lengths as plait numbers them, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randint(1, 41, (len(sizes), max(sizes)), generator=generator)
    value[torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]] = 0
    return value


def states(network: Network, value: torch.Tensor, task: list[int]) -> torch.Tensor:
    """The features of texts, each for the task at its position."""
    asked = {"binary": Records(torch.tensor(task), torch.arange(len(task)))}
    return network({"a": {"text.review": value}}, asked).features["binary"].records


def pooled(hidden: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The mean of hidden states over the real tokens."""
    share = real.to(hidden.dtype)
    return (hidden * share.unsqueeze(2)).sum(1) / share.sum(1, keepdim=True)
