"""Trees as the ONNX operator ``TreeEnsembleRegressor`` wants them: lists with a place per node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plait.comparing.plain.estimators import Trees


def below(threshold: float) -> float:
    """The largest float32 that is at most the threshold.

    A float32 is at most the one exactly where it is at most the other, so that no row changes
    sides.
    """
    found = np.float32(threshold)
    if float(found) > threshold:
        found = np.nextafter(found, np.float32(-np.inf))
    return float(found)


@dataclass(kw_only=True)
class Ensemble:
    """The nodes of all trees, and the weights of their leaves, which are summed."""

    outputs: int
    tree: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    mode: list[str] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    true: list[int] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    leaves: list[tuple[int, int, int, float]] = field(default_factory=list)

    def add(
        self, tree: int, node: int, mode: str, *, feature: int = 0, value: float = 0.0,
        true: int = 0, false: int = 0,
    ) -> None:  # fmt: skip
        """Add a node: a test of one feature, or a ``LEAF``."""
        self.tree.append(tree)
        self.node.append(node)
        self.mode.append(mode)
        self.feature.append(feature)
        self.value.append(value)
        self.true.append(true)
        self.false.append(false)

    def leaf(self, tree: int, node: int, weights: Mapping[int, float]) -> None:
        """Add a leaf that adds to the given outputs."""
        self.add(tree, node, "LEAF")
        self.leaves += [(tree, node, output, weight) for output, weight in weights.items()]

    def attributes(self) -> dict[str, Any]:
        """The operator's attributes."""
        return {
            "n_targets": self.outputs,
            "aggregate_function": "SUM",
            "post_transform": "NONE",
            "nodes_treeids": self.tree,
            "nodes_nodeids": self.node,
            "nodes_modes": self.mode,
            "nodes_featureids": self.feature,
            "nodes_values": self.value,
            "nodes_truenodeids": self.true,
            "nodes_falsenodeids": self.false,
            "nodes_missing_value_tracks_true": [0] * len(self.node),
            "target_treeids": [each[0] for each in self.leaves],
            "target_nodeids": [each[1] for each in self.leaves],
            "target_ids": [each[2] for each in self.leaves],
            "target_weights": [each[3] for each in self.leaves],
        }


def of_forest(trees: Trees) -> Ensemble:
    """A random forest: the mean of its trees."""
    found = Ensemble(outputs=trees.value.shape[1])
    ends = [*trees.roots[1:].tolist(), len(trees.left)]
    count = len(trees.roots)
    for tree, (start, end) in enumerate(zip(trees.roots.tolist(), ends, strict=True)):
        for node in range(start, end):
            if trees.left[node] < 0:
                shares = trees.value[node] / count
                weights = {place: float(share) for place, share in enumerate(shares)}
                found.leaf(tree, node - start, weights)
            else:
                found.add(
                    tree, node - start, "BRANCH_LEQ", feature=int(trees.feature[node]),
                    value=below(float(trees.threshold[node])),
                    true=int(trees.left[node]) - start, false=int(trees.right[node]) - start,
                )  # fmt: skip
    return found


def of_booster(dumped: Mapping[str, Any], outputs: int) -> Ensemble:
    """Boosted trees of LightGBM: tree i adds to output i modulo their number."""
    found = Ensemble(outputs=outputs)
    for tree, info in enumerate(dumped["tree_info"]):
        _Grown(found, tree, tree % outputs).node(info["tree_structure"])
    return found


class _Grown:
    """One tree on its way from LightGBM's nested form."""

    def __init__(self, found: Ensemble, tree: int, output: int) -> None:
        self.found, self.tree, self.output = found, tree, output
        self.count = 0

    def fresh(self) -> int:
        self.count += 1
        return self.count - 1

    def node(self, told: Mapping[str, Any], place: int | None = None) -> int:
        """Add a node and what is beneath it; returns its number."""
        place = self.fresh() if place is None else place
        if "leaf_value" in told:
            self.found.leaf(self.tree, place, {self.output: float(told["leaf_value"])})
            return place
        feature = int(told["split_feature"])
        if told["decision_type"] == "==":
            self._member(told, feature, place)
            return place
        left, right = self.fresh(), self.fresh()
        self.found.add(
            self.tree, place, "BRANCH_LEQ", feature=feature, value=below(float(told["threshold"])),
            true=left, false=right,
        )  # fmt: skip
        self.node(told["left_child"], left)
        self.node(told["right_child"], right)
        return place

    def _member(self, told: Mapping[str, Any], feature: int, place: int) -> None:
        """A set of categories is a chain of tests for equality with one common way out."""
        members = [float(value) for value in str(told["threshold"]).split("||")]
        left, right = self.fresh(), self.fresh()
        for number, value in enumerate(members):
            last = number == len(members) - 1
            after = right if last else self.fresh()
            self.found.add(
                self.tree, place, "BRANCH_EQ", feature=feature, value=value, true=left, false=after
            )
            place = after
        self.node(told["left_child"], left)
        self.node(told["right_child"], right)
