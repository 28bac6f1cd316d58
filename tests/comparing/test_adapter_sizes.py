"""The report's table of what adapters store."""

from __future__ import annotations

from dataclasses import replace

import results_fixture as fixture
from plait.comparing import report
from plait.comparing.report.adapters import adapters
from plait.comparing.report.numbers import both
from plait.comparing.results import AdapterSize, Results


def results(*stored: list[int]) -> Results:
    """The demo's strategies, with adapters of these sizes."""
    demo = fixture.demo()
    ways = [standing.strategy for standing in demo.standings]
    found = [
        AdapterSize(strategy=way, seed=seed, trained=sum(own) + at, common=at, stored=own)
        for seed in ("0", "1")
        for at, (way, own) in enumerate(zip(ways, stored, strict=False))
    ]
    return replace(demo, adapters=found)


def test_strategies_stand_by_what_they_train_with_their_gain():
    found = results([4000, 4000], [700, 1300])
    small, large = adapters(found)
    assert (large.trained, large.common, large.stored) == ("8 k", "0", "4 k")
    assert (small.trained, small.common, small.stored) == ("2 k", "1", "700 to 1.3 k")
    first, second = found.standings[:2]
    assert (large.strategy, small.strategy) == (first.strategy, second.strategy)
    assert large.gain == both(first.gain, signed=True)


def test_the_page_has_the_table_where_adapters_are():
    page = report.html(results([4000, 4000], [700, 1300]))
    table = page[page.index('id="adapters"') :]
    assert table.index("700 to 1.3 k") < table.index("8 k")
    assert 'id="adapters"' not in report.html(fixture.demo())
