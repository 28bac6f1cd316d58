from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.sites import module_sites


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))


def encoder():
    return nn.ModuleDict(
        {"layer": nn.ModuleList([Attention(), Attention()]), "top": nn.Linear(4, 1)}
    )


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("query", ["layer.0.query", "layer.1.query"]),
        (["query", "value"], ["layer.0.query", "layer.0.value", "layer.1.query", "layer.1.value"]),
        ("layer.1.*", ["layer.1.query", "layer.1.key", "layer.1.value"]),
        ("t?p", ["top"]),
    ],
)
def test_patterns_find_paths_in_order(pattern, paths):
    assert [site.path for site in module_sites(encoder(), pattern)] == paths


def test_types_restrict():
    assert len(module_sites(encoder(), types=(nn.Linear,))) == 7
    assert len(module_sites(encoder(), types=(Attention,))) == 2


def test_a_site_knows_its_depth_and_tensors():
    site = module_sites(encoder(), "layer.1.key")[0]
    assert site.depth == 1
    assert {name: tuple(t.shape) for name, t in site.tensors.items()} == {
        "weight": (4, 4),
        "bias": (4,),
    }
    assert module_sites(encoder(), "top")[0].depth is None


def test_replace_wraps_and_undo_restores():
    net = encoder()
    site = module_sites(net, "layer.0.value")[0]
    before = net["layer"][0].value
    wrapped = site.replace(lambda module: nn.Sequential(module, nn.ReLU()))
    assert net["layer"][0].value is wrapped is site.module
    assert wrapped[0] is before
    with pytest.raises(ValueError, match="already replaced"):
        site.replace(nn.Sequential)
    site.undo()
    assert net["layer"][0].value is before
    with pytest.raises(ValueError, match="was not replaced"):
        site.undo()


def test_a_module_used_twice_is_replaced_at_both_places():
    shared = nn.Linear(2, 2)
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    sites = module_sites(net, types=(nn.Linear,))
    assert len(sites) == 1
    new = sites[0].replace(nn.Sequential)
    assert net["a"] is new
    assert net["b"][0] is new
    assert new[0] is shared
    torch.testing.assert_close(net["b"](torch.ones(1, 2)), shared(torch.ones(1, 2)))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("*.quary", "did you mean 'query'"), ("layer.2.value", r"nearest: layer\.")],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, message):
    with pytest.raises(ValueError, match=message):
        module_sites(encoder(), pattern)


def test_the_error_says_which_type_was_wanted():
    with pytest.raises(ValueError, match="no module of type Conv2d matches 'query'"):
        module_sites(encoder(), "query", types=(nn.Conv2d,))
