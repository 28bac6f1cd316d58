from __future__ import annotations

from typing import Any

import pytest

from plait.comparing.plan import Plan
from plait.testing.toys import toy_tasks


@pytest.mark.parametrize(
    ("encoder", "pretrained"),
    [
        ({}, False),
        ({"text": "bag", "trunk": {"mlp": {"width": 8}}}, False),
        ({"text": {"transformer": {"pretrained": "some/name"}}}, True),
        ({"module": "package.module:Class", "settings": {"width": 32}}, False),
        ({"text": {"module": "package.module:Class", "settings": {"width": 32}}}, False),
    ],
)
def test_whether_an_encoder_brings_pretrained_weights(
    encoder: dict[str, Any], pretrained: bool
) -> None:
    plan = Plan(tasks=toy_tasks(), fingerprint="", source=lambda: None, encoder=encoder)
    assert plan.pretrained is pretrained
