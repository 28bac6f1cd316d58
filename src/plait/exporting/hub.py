"""A transformer's folder as Hugging Face's libraries read it, checked by reading it with them.

::

    FOLDER/
      config.json, model.safetensors, tokenizer.json   AutoModel loads the encoder
      adapters/0/ …                                    peft loads the adapter of one task
      heads.safetensors, heads.json                    what stands above: pooling, layers, heads
      README.md

Tasks are numbered in the order of ``heads.json``: names from data are never names of files.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

import plait
from plait.adapting.adapted import AdaptedTrunk
from plait.adapting.base import Adapted, SiteBank, outermost
from plait.adapting.files import places, save_adapter
from plait.comparing.model import BundleModel, Model, NetworkModel
from plait.comparing.predictor import Predictor
from plait.data.inputs import Text
from plait.data.text import Tokens
from plait.exporting.check import ExportError, compare, need
from plait.exporting.hub_reading import predictions, still
from plait.exporting.subject import Subject
from plait.method import resolve
from plait.networks.base import escape
from plait.networks.encoder import Mlp, StemEncoder
from plait.networks.network import Network, plain_config
from plait.networks.transformer import Transformer
from plait.sharing.hard import Hard
from plait.task import TaskSet
from plait.weights.files import publish, temporary_beside, write_atomic, write_json

FORMAT = 1
INSTEAD = "use --onnx or --torch (which take texts with --tokens)"


def export_hf(
    predictor: Predictor, folder: str | Path, *, rows: Any = None, table: str | None = None
) -> dict[str, Any]:
    """Write a network on a transformer as a folder for ``transformers`` and ``peft``.

    A bundle (one network per task) gives a folder for each member under ``members``. Checked on
    ``rows`` by loading it with those libraries, to 1e-5; raises :class:`ExportError`, and leaves
    nothing, where the model has parts that they do not know or predictions differ.
    """
    need("text", "transformers", "peft", "tokenizers")
    subject = Subject.of(predictor, rows, table)
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty; give another folder")
    part = subject.part()
    ours = subject.predictions(part)
    fresh = temporary_beside(folder)
    fresh.mkdir(parents=True)
    worst, written = 0.0, []
    try:
        for place, network in _networks(subject.model, subject):
            parts = _Parts.of(network, subject)
            parts.write(fresh / place)
            tasks = {name: subject.tasks[name] for name in parts.order}
            theirs = predictions(fresh / place, part[parts.text.input.key])
            worst = max(worst, compare("transformers", tasks, ours, theirs))
            written += parts.order
        publish(fresh)
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return {
        "plait": plait.__version__, "outputs": {name: {"task": name} for name in written},
        "checked": subject.rows.rows, "real": subject.real, "difference": worst,
    }  # fmt: skip


def _networks(model: Model, subject: Subject, place: str = "") -> list[tuple[str, Network]]:
    if isinstance(model, BundleModel):
        several = len(model.members) > 1
        return [
            found
            for number, member in enumerate(model.members)
            for found in _networks(member, subject, f"{place}members/{number}/" if several else "")
        ]
    if not isinstance(model, NetworkModel):
        raise ExportError(
            f"only networks on a transformer have this form, not a model of sort {model.sort!r}"
        )
    return [(place, model.network)] if set(model.tasks.names) & set(subject.tasks) else []


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """A network taken apart; ``banks`` are the adapters by their path inside the transformer."""

    stem: Transformer
    above: Mlp
    banks: Mapping[str, SiteBank]
    network: Network
    text: Text
    order: list[str]

    @classmethod
    def of(cls, network: Network, subject: Subject) -> _Parts:
        trunk, config = network.trunk, plain_config(network.config)
        base = trunk.base if isinstance(trunk, AdaptedTrunk) else trunk
        sharing = config.get("sharing")
        encoder = getattr(base, "encoder", None)
        if sharing is None or not isinstance(resolve("sharing", sharing), Hard):
            raise ExportError(
                "--hf writes one encoder with heads, and this model has more between them; "
                f"{INSTEAD}"
            )
        if not isinstance(encoder, StemEncoder) or not isinstance(
            stem := next(iter(encoder.stems.values())), Transformer
        ):
            raise ExportError(
                f"--hf writes transformer encoders, and this model has none; {INSTEAD}"
            )
        texts = [each for each in subject.encodings if isinstance(each, Text)]
        if len(encoder.stems) > 1 or len(stem.keys) > 1 or len(texts) != 1:
            raise ExportError(
                "--hf writes models that read one text and nothing else; this one reads "
                f"{', '.join(each.input.key for each in subject.encodings)}; {INSTEAD}"
            )
        order = [name for name in network.tasks.names if name in subject.tasks]
        banks = _banks(trunk, stem) if isinstance(trunk, AdaptedTrunk) else {}
        return cls(
            stem=stem, above=encoder.trunk, banks=banks, network=network, text=texts[0], order=order
        )

    def write(self, folder: Path) -> None:
        """Write everything; the order of tasks is that of the network."""
        folder.mkdir(parents=True, exist_ok=True)
        model = _plain(self.stem.model)
        with still():
            model.save_pretrained(folder)
        assert isinstance(self.text.coding, Tokens)
        write_atomic(folder / "tokenizer.json", self.text.coding.tokenizer.encode())
        adapters = {}
        if self.banks:
            for number, name in enumerate(self.order):
                adapters[name] = f"adapters/{number}"
                save_adapter(self.network, name, folder / adapters[name], base="../..")
        tensors, told = self._heads(adapters)
        save_file(tensors, folder / "heads.safetensors", metadata={"format": "pt"})
        write_json(folder / "heads.json", told)
        write_atomic(folder / "README.md", README.encode())

    def _heads(self, adapters: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        layers: list[dict[str, Any]] = []
        for number, layer in enumerate(self.above.layers):
            match layer:
                case nn.Linear():
                    layers.append({"linear": f"layers.{number}"})
                case nn.LayerNorm():
                    layers.append({"layer_norm": f"layers.{number}", "eps": layer.eps})
                case nn.ReLU():
                    layers.append({"relu": True})
            tensors |= {
                f"layers.{number}.{name}": value.detach().float().cpu().contiguous()
                for name, value in layer.named_parameters()
            }
        tasks = []
        known: TaskSet = self.network.tasks
        for number, name in enumerate(self.order):
            task = known[name]
            bank = self.network.heads.banks[escape(task.group)]
            position = known.groups[task.group].position[name]
            for kind in ("weight", "bias"):
                value = bank.get_parameter(kind)[position].detach().float().cpu().clone()
                tensors[f"heads.{number}.{kind}"] = value
            told = {key: task.to_json()[key] for key in ("name", "kind", "classes", "loss")}
            told |= {"center": task.center, "scale": task.scale, "head": f"heads.{number}"}
            tasks.append({**told, "adapter": adapters.get(name)})
        coding = self.text.coding
        assert isinstance(coding, Tokens)
        return tensors, {
            "format": FORMAT, "pooling": self.stem.pooling, "max_length": coding.max_length,
            "layers": layers, "tasks": tasks,
        }  # fmt: skip


def _plain(model: nn.Module) -> Any:
    """A copy of the transformer without adapters."""
    found = copy.deepcopy(model).cpu().float()
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Adapted):
                setattr(parent, name, child.frozen)
    return found


def _banks(trunk: AdaptedTrunk, stem: Transformer) -> dict[str, SiteBank]:
    """The adapters by their path inside the transformer."""
    inside = outermost(stem)
    try:
        found = places(trunk)
        for bank in found.values():
            bank.exported(0)
    except ValueError as error:
        raise ExportError(f"{error}; {INSTEAD}") from error
    if len(inside) != len(found):
        raise ExportError(
            "peft's format holds adapters inside the transformer; this model has some at other "
            f"places; {INSTEAD}"
        )
    return found


README = """---
library_name: transformers
tags: [multi-task-learning, plait]
---

# A transformer with several tasks

Made by plait. `AutoModel.from_pretrained` loads the encoder. Where `adapters` is there, peft loads
the adapter of one task: `heads.json` says which. Above stand pooling, `layers` and one linear head
per task, in `heads.safetensors`; names and classes of the tasks are in `heads.json`.

```python
import json, torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModel

told, tensors = json.load(open("heads.json")), load_file("heads.safetensors")
tokenizer, model = Tokenizer.from_file("tokenizer.json"), AutoModel.from_pretrained(".").eval()
task = told["tasks"][0]
if task["adapter"]:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, task["adapter"]).eval()
tokenizer.no_padding()
tokenizer.enable_truncation(told["max_length"])
ids = torch.tensor([tokenizer.encode("a text").ids])
with torch.no_grad():
    states = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    x = states.mean(1) if told["pooling"] == "mean" else states[:, 0]
    for layer in told["layers"]:
        name = layer.get("linear") or layer.get("layer_norm")
        if "linear" in layer:
            x = torch.nn.functional.linear(x, tensors[name + ".weight"], tensors[name + ".bias"])
        elif "layer_norm" in layer:
            weight, bias = tensors[name + ".weight"], tensors[name + ".bias"]
            x = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, layer["eps"])
        else:
            x = x.relu()
    head = task["head"]
    raw = torch.nn.functional.linear(x, tensors[head + ".weight"], tensors[head + ".bias"])
```

`raw` is, by the task's kind: binary, the log-odds of the second class; classes, logits for a
softmax; ordinal, the log-odds of lying above each class but the last; real, the value before
`raw * scale + center`; counts, the logarithm of the rate.
"""
