"""The answer in one of four forms, by rules that are written down and told with it.

Every *choice* is made on the validation rows, every *claim* is an interval on the test rows:

1. Chosen on validation: the best network and the best plain baseline by Δm; the shared model, which
   is the leaderboard's choice if that shares anything, else the cheapest of those tied with the
   best network other than ``separate``; and the tasks that it harms, those worse than separate
   models after correction for the number of tasks (Benjamini and Hochberg, 1995, at 5 %).
2. ``baseline``, if on test the best baseline beats the best network beyond noise; or if the
   leaderboard's choice is a baseline and at most 3 % worse than that network.
3. ``mixed``, if on test the tasks named in 1 are worse beyond noise, taken together: share the
   others, separate these. All stay separate where the others, or all tasks, are worse as a whole
   and not known to be within 3 %.
4. ``one``, if on test the shared model is at most 3 % worse.
5. ``unclear`` otherwise: the interval holds both a loss of more than 3 % and no loss at all. So it
   is where ``separate`` has no figures or no shared model was tried.

"At most 3 % worse" means the whole interval of the difference in Δm, not its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from plait.comparing import words
from plait.comparing.leaderboard import EQUAL, best_of, choose
from plait.comparing.ranking import Ranking
from plait.comparing.results import Answer, Interval, Standing

FALSE_HARM = 0.05  # expected share of tasks named as harmed that are not


@dataclass(frozen=True)
class _Choice:
    """What validation chose, and the figures on test that claims are made from."""

    rows: Mapping[str, Standing]
    test: Ranking
    valid: Ranking
    chosen: str | None  # by the leaderboard's rule
    network: str | None
    baseline: str | None
    shared: str | None
    leaving: tuple[str, ...]

    @property
    def staying(self) -> tuple[str, ...]:
        return tuple(name for name in self.test.tasks if name not in self.leaving)


def answer(standings: Sequence[Standing], test: Ranking, valid: Ranking) -> Answer:
    """The answer to "one model or several?", for the same strategies on both sets of rows.

    The rules are in the module's docstring; ``reasons`` tells which were used, with figures.
    """
    choice = _choose(standings, test, valid)
    reference = test.reference
    if reference not in choice.rows or not test.gain[reference].defined:
        return Answer(
            form="unclear",
            headline=f"No answer yet: {reference} has no figures to compare with.",
            use="Nothing can be recommended without it; see the failures.",
            reasons=(f"Gains are changes against {reference}.",),
        )
    for form in (_baseline, _mixed, _one):
        found = form(choice)
        if found:
            return found
    return _unclear(choice)


def harmed_tasks(ranking: Ranking, strategy: str) -> tuple[str, ...]:
    """Tasks worse than the reference after Benjamini and Hochberg's correction, in task order."""
    chances = sorted((p, name) for name, p in ranking.p_harmed(strategy).items())
    last = max(
        (at for at, (p, _) in enumerate(chances, 1) if p <= FALSE_HARM * at / len(chances)),
        default=0,
    )
    named = {name for _, name in chances[:last]}
    return tuple(name for name in ranking.tasks if name in named)


def _choose(standings: Sequence[Standing], test: Ranking, valid: Ranking) -> _Choice:
    rows = {row.strategy: row for row in standings if row.gain.defined}
    networks = [name for name, row in rows.items() if not row.baseline]
    sharing = [name for name in networks if name != test.reference]
    chosen = next((name for name, row in rows.items() if row.chosen), None)
    costs = {name: row.cost for name, row in rows.items()}
    shared = chosen if chosen in sharing else choose(valid, costs, sharing)
    return _Choice(
        rows=rows,
        test=test,
        valid=valid,
        chosen=chosen,
        network=best_of(valid, networks),
        baseline=best_of(valid, [name for name, row in rows.items() if row.baseline]),
        shared=shared,
        leaving=harmed_tasks(valid, shared) if shared else (),
    )


def _baseline(choice: _Choice) -> Answer | None:
    network = choice.network
    if choice.baseline is None or network is None:
        return None
    plain, verdict = choice.baseline, "A plain baseline wins"
    apart = choice.test.difference(plain, network)
    if not _above(apart, 0):
        if choice.chosen is None or not choice.rows[choice.chosen].baseline:
            return None
        plain, verdict = choice.chosen, "A plain baseline is as good"
        apart = choice.test.difference(plain, network)
        if not _above(apart, -EQUAL):
            return None
    name, against = words.plain(plain), words.plain(network)
    figures = (
        f"Against {choice.test.reference}: {name} {words.gain(choice.test.gain[plain])}, "
        f"{against} {words.gain(choice.test.gain[network])}."
    )
    return Answer(
        form="baseline",
        headline=f"{verdict}: {name} is {words.gain(apart)} against {against}, the best network.",
        use=f"Use {name}: on these data no network earns its cost.",
        reasons=(figures, *_rules(choice, plain)),
    )


def _mixed(choice: _Choice) -> Answer | None:
    shared, test = choice.shared, choice.test
    if shared is None:
        return None
    name, reference = words.plain(shared), words.plain(test.reference)
    harm = test.mean_gain(shared, choice.leaving)
    stay = test.mean_gain(shared, choice.staying)
    split = bool(choice.staying) and _below(harm, 0)
    rest = stay if split else test.gain[shared]
    if _below(rest, 0) and not _above(rest, -EQUAL):
        return Answer(
            form="mixed",
            headline=f"Keep the tasks separate: {name}, the best shared model, is "
            f"{words.gain(test.gain[shared])} against {_models(choice)}.",
            use=f"Use {reference}.",
            reasons=(*_task_reasons(choice), *_rules(choice, test.reference)),
            separate=test.tasks,
        )
    if not split:
        return None
    share, apart = words.listed(choice.staying), words.listed(choice.leaving)
    one = len(choice.staying) == 1
    mixture = test.mean_gain(shared, replaced=choice.leaving)
    figures = (
        f"{name}: {words.gain(harm)} for {apart}, found on the validation rows and measured on "
        f"the test rows; {words.gain(stay)} for {share}."
    )
    return Answer(
        form="mixed",
        headline=f"{'Use the shared model for' if one else 'Share'} {share}{' only' * one}; "
        f"keep {apart} separate.",
        use=f"Use {name} for {share} and separate models for {apart}: {words.gain(mixture)} "
        f"over {reference} in the mean of all {len(test.tasks)} tasks.",
        reasons=(figures, *_task_reasons(choice), *_rules(choice, shared)),
        share=choice.staying,
        separate=choice.leaving,
    )


def _one(choice: _Choice) -> Answer | None:
    shared, test = choice.shared, choice.test
    if shared is None or not _above(test.gain[shared], -EQUAL):
        return None
    gain, name = test.gain[shared], words.plain(shared)
    verdict = "better than" if _above(gain, 0) else "as good as"
    if _below(gain, 0):
        verdict = f"within {EQUAL:g} % of"
    small = _size(choice)
    use = f"Use {name}: one model for all {len(test.tasks)} tasks."
    if choice.chosen == test.reference:
        use = f"Use {name} where one model matters, {test.reference} where every per cent does."
    return Answer(
        form="one",
        headline=f"One model is {verdict} {_models(choice)}{f', at {small}' if small else ''}: "
        f"{name}, {words.gain(gain)}.",
        use=use,
        reasons=(*_task_reasons(choice), *_rules(choice, shared)),
        share=test.tasks,
    )


def _unclear(choice: _Choice) -> Answer:
    shared, test = choice.shared, choice.test
    until = "Label more rows and run the study again."
    if choice.chosen:
        until = f"Until then use {words.plain(choice.chosen)}, the cheapest of what is tied."
    if shared is None:
        return Answer(
            form="unclear",
            headline="No answer yet: no model that shares anything has figures.",
            use="Add joint to the strategies.",
            reasons=_rules(choice, choice.chosen),
        )
    gain, name = test.gain[shared], words.plain(shared)
    reasons = [f"The interval allows a loss of more than {EQUAL:g} % and no loss at all."]
    if gain.low is not None and gain.high is not None:
        more = max(2, ceil(((gain.high - gain.low) / 2 / EQUAL) ** 2))
        reasons.append(
            f"To tell {EQUAL:g} % takes about {more} times as many test rows, as intervals narrow "
            "with the root of the rows (and of the seeds)."
        )
    return Answer(
        form="unclear",
        headline=f"Too little data to tell: {name} is {words.gain(gain)} against "
        f"{_models(choice)}.",
        use=until,
        reasons=(*reasons, *_task_reasons(choice), *_rules(choice, choice.chosen)),
    )


def _task_reasons(choice: _Choice) -> tuple[str, ...]:
    """Which tasks the shared model helps and harms on the test rows."""
    if choice.shared is None:
        return ()
    row, name = choice.rows[choice.shared], words.plain(choice.shared)
    gains = {task: score.gain.value or 0.0 for task, score in choice.test.of(row.strategy).items()}
    found = []
    for verb, tasks in (("helps", row.helped), ("harms", row.harmed)):
        if tasks:
            largest = sorted(tasks, key=lambda task: -abs(gains[task]))
            told = words.listed([f"{task} ({words.percent(gains[task])})" for task in largest])
            found.append(
                f"On the test rows {name} {verb} {len(tasks)} of {len(gains)} tasks beyond noise, "
                f"each by its own interval: {told}."
            )
    if not found:
        found.append(f"On the test rows {name} neither helps nor harms any task beyond noise.")
    unseen = [
        task for task in harmed_tasks(choice.test, choice.shared) if task not in choice.leaving
    ]
    if unseen:
        found.append(
            f"Watch {words.listed(unseen)}: harmed on test after correction for the number of "
            "tasks, though validation did not show it, so it took no part in the choice."
        )
    return tuple(found)


def _rules(choice: _Choice, used: str | None) -> tuple[str, ...]:
    """How the choice was made, and what the leaderboard chose where that is not what is used."""
    rule = (
        "Chosen on the validation rows, measured on the test rows; among the tied the cheapest, "
        f"and within {EQUAL:g} % counts as equally good."
    )
    chosen, network = choice.chosen, choice.network
    if not chosen or not network or chosen == used:
        return (rule,)
    board = f"The leaderboard's choice (→) is {words.plain(chosen)}, the cheapest of the tied"
    if chosen == network:
        return (rule, f"{board}.")
    apart = words.gain(choice.test.difference(chosen, network))
    return (rule, f"{board}; on the test rows it is {apart} against {words.plain(network)}.")


def _models(choice: _Choice) -> str:
    count = len(choice.test.tasks)
    return f"{count} separate ones" if count > 1 else "a separate one"


def _size(choice: _Choice) -> str:
    """The size of the shared model against all separate ones, where both are known."""
    if choice.shared is None:
        return ""
    own = choice.rows[choice.shared].cost.parameters
    all_separate = choice.rows[choice.test.reference].cost.parameters
    return words.size(own / all_separate) if own and all_separate else ""


def _above(interval: Interval, line: float) -> bool:
    return interval.low is not None and interval.low > line


def _below(interval: Interval, line: float) -> bool:
    return interval.high is not None and interval.high < line
