"""The words of a report and their definitions, shown on hover and in the glossary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from plait import metrics as measured
from plait.comparing.results import Results

METRICS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "ece": "ECE",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "macro_f1": "macro F1",
    "mae": "MAE",
    "poisson_deviance": "Poisson deviance",
    "quadratic_kappa": "quadratic κ",
    "r2": "R²",
    "rmse": "RMSE",
    "spearman": "Spearman ρ",
}

# What the report itself says; a study's own definition of the same word comes first.
WORDS: Mapping[str, str] = {
    "gain": "The relative change of a task's ranking metric against separate models, in per cent, "
    "averaged over tasks (Δm). Higher is better whatever the metric.",
    "gain over metrics": "The same change averaged over every metric of every task, not only the "
    "ranking one. The two averages can differ in sign.",
    "interval": "The range that holds the figure with 95 % confidence. It is shown beside the "
    "figure, and as the line through a dot.",
    "tie": "A difference to the best that lies inside the noise. Among tied strategies the "
    "cheapest is used.",
    "helped": "A task that is better than its separate model beyond noise.",
    "harmed": "A task that is worse than its separate model beyond noise: negative transfer.",
    "separate": "One model per task with the same encoder, trained on that task alone: the zero of "
    "the scale.",
    "plain baseline": "A method without shared networks, for scale: the prior, a linear model, a "
    "forest or boosting.",
    "size": "Parameters stored on disk; where fewer are used for one row, those are given too.",
    "training": "Seconds of training until the model is ready, its parts and tuning trials "
    "included, as a mean over seeds; below it the peak memory.",
    "latency": "Seconds to predict all tasks for one row, in batches.",
    "undefined": "A metric that the test rows cannot give, such as AUROC with one class. It is "
    "left out of means and never counted as 0.",
    "task weight": "The factor a balancer gives a task's loss; 1 is an equal share.",
    "gradient norm": "The length of a task's gradient on the parameters that tasks share: how hard "
    "it pulls.",
    "signed ranks": "A test of paired differences by the ranks of their sizes, so that no single "
    "large difference decides. Blocks of one task share their test rows: it tells what another "
    "training would do on these tasks.",
    "Holm": "A correction of p for the number of comparisons: the chance that any one of those "
    "called better or worse is not stays at 5 %.",
    "conflict": "Two tasks whose gradients point against each other (negative cosine): a step "
    "that helps one harms the other.",
    "validation loss": "The loss on rows that are not trained on; the best point of its curve is "
    "the model that is kept.",
}


def metric(name: str) -> str:
    """A metric's name as people write it."""
    return METRICS.get(name, name.replace("_", " "))


def lower(name: str) -> bool:
    """Whether less of a metric is better; unknown metrics count as higher is better."""
    return name in measured.METRICS and measured.METRICS[name].higher is False


def _of_metric(name: str) -> str:
    if name not in measured.METRICS:
        return ""
    found = measured.METRICS[name]
    better = {True: "Higher is better.", False: "Lower is better.", None: "Nearer to 1 is better."}
    return f"{found.words} {better[found.higher]}"


class Glossary:
    """Every word with a definition, in the order a reader meets them."""

    def __init__(self, results: Results) -> None:
        given = {_key(word): text for word, text in results.definitions.items()}
        used = {name: None for score in results.scores for name in score.metrics}
        wanted = [*WORDS, *used, *results.definitions]
        self.entries: dict[str, tuple[str, str]] = {}
        for word in wanted:
            key = _key(word)
            text = given.get(key) or WORDS.get(word) or _of_metric(word)
            if text and key not in self.entries:
                self.entries[key] = (metric(word), text)
        self._number = {key: place for place, key in enumerate(self.entries)}

    def definition(self, word: str) -> str:
        """The definition of a word; empty where there is none."""
        return self.entries.get(_key(word), ("", ""))[1]

    def anchor(self, word: str) -> str:
        """The place of a word in the glossary, made without its letters: names are hostile."""
        number = self._number.get(_key(word))
        return "" if number is None else f"word-{number}"

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """Anchor, word and definition of each entry."""
        for key, (word, text) in self.entries.items():
            yield f"word-{self._number[key]}", word, text


def _key(word: str) -> str:
    plain = "".join(char for char in word.casefold() if char.isalnum())
    # "gain (Δm)" and "Δm" are the gain; the other spellings are those of the leaderboard.
    alias = {"gainδm": "gain", "δm": "gain", "ties": "tie", "tied": "tie", "intervals": "interval",
             "baseline": "plainbaseline", "negativetransfer": "harmed"}  # fmt: skip
    return alias.get(plain, plain) or word
