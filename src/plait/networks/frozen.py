"""Features of frozen text encoders, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from plait.batch import Batch
from plait.networks.transformer import Transformer, features_key
from plait.weights.files import write_atomic


class Rows(Protocol):
    """A data set: its length, and any of its rows as a batch."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def batch(self, rows: Tensor) -> Batch:
        """The rows with these numbers."""
        ...


def features_of(network: nn.Module, dataset: Rows, cache: Path | None = None) -> dict[str, Tensor]:
    """The frozen encoders' features of every row: ``features.<role>`` [R, width], float32.

    Rows without that text have zeros. Given to the data set as extra inputs, they stand for the
    texts. With ``cache``, a folder, they are kept in a file named by a hash of weights, pooling,
    length and tokens; a damaged file is written again. Encoders that train or hold an adapter have
    none; the result is empty where no encoder is frozen.
    """
    found = {}
    for stem in network.modules():
        if isinstance(stem, Transformer) and stem.reads_features:
            weights = _weights_digest(stem)
            for key, tokens in _tokens(dataset, stem.keys).items():
                found[features_key(key)] = _cached(stem, tokens, weights, cache)
    return found


def _cached(stem: Transformer, tokens: Tensor, weights: bytes, cache: Path | None) -> Tensor:
    if cache is None:
        return _run(stem, tokens)
    digest = hashlib.sha256(weights)
    digest.update(f"{stem.pooling} {stem.max_length} {tuple(tokens.shape)}".encode())
    digest.update(tokens.numpy().data)
    path = cache / f"features-{digest.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return load(path.read_bytes())["features"]
        except (SafetensorError, KeyError):
            path.unlink()
    features = _run(stem, tokens)
    write_atomic(path, save({"features": features}))
    return features


@torch.no_grad()
def _run(stem: Transformer, tokens: Tensor) -> Tensor:
    """Texts [R, longest] → [R, width], whatever batches they are asked for in later."""
    model = next(stem.model.parameters())
    features = torch.zeros(len(tokens), stem.model.config.hidden_size)
    there = (tokens != 0).any(1).nonzero()[:, 0]
    training = stem.training
    stem.eval()
    if len(there):
        found = stem.encode("", tokens[there].to(model.device), model.dtype)
        features[there] = found.float().cpu()
    stem.train(training)
    return features


def _tokens(dataset: Rows, keys: tuple[str, ...]) -> dict[str, Tensor]:
    """The tokens of each text of every row, [R, longest], 0 where a row has none."""
    pieces: dict[str, list[tuple[Tensor, Tensor]]] = {key: [] for key in keys}
    for rows in torch.split(torch.arange(len(dataset)), 1024):
        for key, ids, value in _texts(dataset.batch(rows), keys):
            pieces[key].append((ids, value))
    found = {}
    for key, mine in pieces.items():
        longest = max((value.shape[1] for _, value in mine), default=1)
        found[key] = torch.zeros(len(dataset), longest, dtype=torch.long)
        for ids, value in mine:
            found[key][ids, : value.shape[1]] = value.long()
    return found


def _texts(batch: Batch, keys: tuple[str, ...]) -> Iterator[tuple[str, Tensor, Tensor]]:
    start = 0
    for part in batch.parts.values():
        length = len(next(iter(part.values())))
        for key in keys:
            if key in part:
                yield key, batch.ids[start : start + length], part[key]
        start += length


def _weights_digest(stem: Transformer) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(stem.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
