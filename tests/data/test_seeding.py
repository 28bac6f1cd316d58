from __future__ import annotations

from plait.data.seeding import generator, key


def test_keys_are_the_same_for_ever():
    assert key(0, "pass", 3, "click") == GOLDEN
    assert 0 <= key("anything") < 2**63


def test_every_part_and_its_place_count():
    keys = {
        key(0, 1),
        key(1, 0),
        key(0, "1"),
        key("0", 1),
        key(0, 1, ""),
        key("ab", "c"),
        key("a", "bc"),
    }
    assert len(keys) == 7


def test_generators_repeat():
    assert generator(1, "x").random() == generator(1, "x").random()
    assert generator(1, "x").random() != generator(1, "y").random()


GOLDEN = 73550503119960037
