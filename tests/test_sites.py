from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.sites import has_role, module_sites, role_sites


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


def named(kind, **more):
    transformers = pytest.importorskip("transformers")
    tiny = {
        "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if kind in ("distilbert", "t5"):
        tiny = {"vocab_size": 20}
    config = transformers.AutoConfig.for_model(kind, **tiny, **more)
    return nn.ModuleDict({"model": transformers.AutoModel.from_config(config)})


@pytest.mark.parametrize(
    ("kind", "more", "wanted"),
    [
        ("bert", {}, {
            "query": "attention.self.query", "attention_output": "attention.output.dense",
            "inner": "intermediate.dense", "outer": "output.dense",
            "outer_norm": "output.LayerNorm", "block": "",
        }),
        ("distilbert", {"dim": 8, "hidden_dim": 16, "n_heads": 2, "n_layers": 1}, {
            "value": "attention.v_lin", "outer": "ffn.lin2", "outer_norm": "output_layer_norm",
            "block": "",
        }),
        ("llama", {"num_key_value_heads": 2}, {
            "key": "self_attn.k_proj", "attention_output": "self_attn.o_proj",
            "outer": "mlp.down_proj", "outer_norm": None, "block": "",
        }),
        ("vit", {}, {
            "query": "attention.q_proj", "inner": "mlp.fc1", "outer_norm": None, "block": "",
        }),
    ],
)  # fmt: skip
def test_roles_find_the_parts_of_a_block_in_any_library(kind, more, wanted):
    root = named(kind, **more)
    (block,) = [site.path for site in role_sites(root, "block")]
    for role, end in wanted.items():
        found = [site.path for site in role_sites(root, role)]
        assert found == ([] if end is None else [f"{block}.{end}".rstrip(".")]), role


def test_blocks_are_the_outermost_ones():
    root = named("t5", d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    assert [site.path for site in role_sites(root, "block")] == [
        "model.encoder.block.0", "model.decoder.block.0",
    ]  # fmt: skip


def test_roles_are_patterns_and_unknown_ones_are_refused():
    net = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    assert [site.path for site in module_sites(net, ["<query>", "norm"])] == ["q_proj", "norm"]
    assert [site.path for site in module_sites(net, "<norm>")] == ["norm"]
    assert has_role("layers.0.q_proj", "query")
    with pytest.raises(ValueError, match="did you mean 'query'"):
        module_sites(net, "<quary>")
    with pytest.raises(ValueError, match="no module matches '<value>'"):
        module_sites(net, "<value>")
    with pytest.raises(ValueError, match="goes by name"):
        has_role("layers.0", "block")
