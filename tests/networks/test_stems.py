from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.batch import Input
from plait.method import MethodError
from plait.networks import check_encoder, make_encoder
from plait.networks.stems import Bag, Cnn, Embedding

NUMERIC = Input(key="numeric", type="numeric", shape=(3,))
CODES = Input(key="categorical", type="categorical", shape=(3,), sizes=(4, 60, 5))
TEXT = Input(key="text.note", type="text", shape=(-1,), sizes=(30,))
IMAGE = Input(key="image.scan", type="image", shape=(1, 12, 22))
VECTOR = Input(key="vector.v", type="vector", shape=(2,))
ALL = {found.key: found for found in (NUMERIC, CODES, TEXT, IMAGE, VECTOR)}


class Linear(nn.Module):
    """A user's module: a tensor in, a tensor out."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(2, outputs)

    def forward(self, x):
        return self.linear(x)


class WholeEncoder(nn.Module):
    """A user's encoder: reads the parts itself."""

    def __init__(self, inputs, scale: float) -> None:
        super().__init__()
        self.inside = inputs["numeric"].width
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, parts):
        return torch.cat([part["numeric"] for part in parts.values()]) * self.scale


def part(rows=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "numeric": torch.randn(rows, 3, generator=generator),
        "categorical": torch.randint(0, 4, (rows, 3), generator=generator),
        "text.note": torch.randint(1, 30, (rows, 6), generator=generator),
        "image.scan": torch.randn(rows, 1, 12, 22, generator=generator),
        "vector.v": torch.randn(rows, 2, generator=generator),
    }


def test_absent_inputs_count_as_zeros():
    encoder = make_encoder({"trunk": {"mlp": {"depth": 0}}}, ALL)
    whole = encoder({"a": part()})
    widths = {kind: stem.width for kind, stem in encoder.stems.items()}
    assert whole.shape == (5, encoder.width) == (5, sum(widths.values()))
    less = part()
    del less["categorical"], less["image.scan"]
    found = encoder({"a": less})
    pieces = dict(zip(widths, found.split(list(widths.values()), dim=1), strict=True))
    kept = dict(zip(widths, whole.split(list(widths.values()), dim=1), strict=True))
    for kind in widths:
        expected = torch.zeros(1) if kind in ("categorical", "image") else kept[kind]
        assert torch.equal(pieces[kind], expected.expand_as(pieces[kind])), kind


def test_parts_are_rows_one_after_another():
    encoder = make_encoder({}, ALL)
    first = {"numeric": part()["numeric"]}
    both = encoder({"b": first, "a": part(3, seed=1)})
    assert both.shape == (8, 256)
    torch.testing.assert_close(both[:5], encoder({"b": first}))
    torch.testing.assert_close(both[5:], encoder({"a": part(3, seed=1)}))


def test_a_batch_of_one_keeps_its_dimension():
    assert make_encoder({}, ALL)({"a": part(1)}).shape == (1, 256)


@pytest.mark.parametrize("width", [None, 7])
def test_embedding_looks_each_column_up_in_its_own_table(width):
    stem = Embedding([CODES], width=width)
    codes = torch.tensor([[1, 2, 3], [0, 59, 4]])
    found = stem.encode("categorical", codes, torch.float32)
    widths = [7, 7, 7] if width else [4, 16, 4]
    assert found.shape == (2, sum(widths))
    assert (found[1].split([widths[0], sum(widths[1:])])[0] == 0).any()
    changed = codes.clone()
    changed[0, 1] = 3
    differs = (stem.encode("categorical", changed, torch.float32) != found).any(0)
    assert int(differs.sum()) == widths[1]


def test_columns_of_one_width_keep_their_own_vectors():
    stem = Embedding([CODES], width=3)
    found = stem.encode("categorical", torch.tensor([[2, 2, 2]]), torch.float32)[0].view(3, 3)
    assert len(found.unique(dim=0)) == 3


def test_unknown_categories_start_at_zero():
    stem = Embedding([CODES])
    assert (stem.encode("categorical", torch.zeros(2, 3).long(), torch.float32) == 0).all()


def test_ids_above_the_float_limit_stay_apart():
    big = Input(key="categorical", type="categorical", shape=(1,), sizes=(16_777_220,))
    stem = Embedding([big], width=1)
    codes = torch.tensor([[16_777_216], [16_777_217]])
    found = stem.encode("categorical", codes, torch.float32)
    assert found[0] != found[1]


def test_bag_is_the_mean_of_real_tokens():
    stem = Bag([TEXT], width=4)
    table = stem.tables[0].weight
    tokens = torch.tensor([[3, 5, 5, 0], [0, 0, 0, 0]])
    found = stem.encode("text.note", tokens, torch.float32)
    torch.testing.assert_close(found[0], (table[3] + 2 * table[5]) / 3)
    assert (found[1] == 0).all()
    longer = torch.cat([tokens, torch.zeros(2, 9).long()], dim=1)
    assert torch.equal(stem.encode("text.note", longer, torch.float32), found)
    found.sum().backward()
    assert (table.grad[0] == 0).all()


@pytest.mark.parametrize("shape", [(1, 12, 22), (1, 28, 28), (3, 100, 64), (1, 1, 5)])
def test_cnn_fits_any_image(shape):
    stem = Cnn([Input(key="image.x", type="image", shape=shape)])
    assert stem.encode("image.x", torch.randn(2, *shape), torch.float32).shape == (2, stem.width)
    assert stem.width <= 32 * 64


def test_a_module_of_the_users_encodes_one_type():
    spec = {"vector": {"module": f"{__name__}:Linear", "settings": {"outputs": 9}}}
    encoder = make_encoder({**spec, "trunk": {"mlp": {"depth": 0}}}, {"vector.v": VECTOR})
    assert encoder({"a": part()}).shape == (5, 9)
    again = make_encoder(encoder.spec, {"vector.v": VECTOR})
    assert again.spec == encoder.spec


def test_a_module_of_the_users_is_the_whole_encoder():
    spec = {"module": f"{__name__}:WholeEncoder", "settings": {"scale": 2.0}}
    encoder = make_encoder(spec, {"numeric": NUMERIC})
    assert encoder.width == 3
    torch.testing.assert_close(encoder({"a": part()}), part()["numeric"] * 2)
    assert encoder.spec == spec


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ({"txet": "bag"}, ("txet",), "did you mean 'text'"),
        ({"text": "bags"}, ("text", "bags"), "did you mean 'bag'"),
        ({"text": {"bag": {"widht": 3}}}, ("text", "bag", "widht"), "did you mean 'width'"),
        ({"trunk": {"mlp": {"dept": 3}}}, ("trunk", "mlp", "dept"), "did you mean 'depth'"),
        ({"trunk": {"mlp": 3}}, ("trunk", "mlp"), "must be a mapping"),
        ({"image": ["cnn"]}, ("image",), "must be its name"),
        ({"module": "a:B", "text": "bag"}, ("text",), "no setting 'text'"),
        ({"vector": {"module": "a:B", "setings": {}}}, ("vector", "setings"), "'settings'"),
    ],
)
def test_mistakes_name_the_place_and_the_nearest_name(spec, where, message):
    with pytest.raises(MethodError, match=message) as caught:
        check_encoder(spec)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ({"vector": {"module": "no_such_module:X"}}, ("vector", "module"), "cannot load"),
        ({"vector": {"module": "os:system"}}, ("vector", "module"), "not a torch.nn.Module"),
        (
            {"vector": {"module": f"{__name__}:Linear", "settings": {"out": 1}}},
            ("vector", "settings"),
            "unexpected keyword",
        ),
        ({"trunk": {"mlp": {"width": "wide"}}}, ("trunk", "mlp"), "trunk mlp: "),
        ({"trunk": {"mlp": {"norm": "layr"}}}, ("trunk", "mlp", "norm"), "did you mean 'layer'"),
    ],
)
def test_mistakes_found_while_building_name_their_place(spec, where, message):
    with pytest.raises(MethodError, match=message) as caught:
        make_encoder(spec, {"vector.v": VECTOR})
    assert caught.value.where == where


def test_an_encoder_needs_an_input():
    with pytest.raises(MethodError, match="at least one column"):
        make_encoder({}, {})
