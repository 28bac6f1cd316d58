from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from plait.cli.main import run
from plait.flows.checking import perplexities, perplexity

transformers = pytest.importorskip("transformers")
TEXT = "the cat sat on the mat and the dog sat on the cat " * 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two models with a tokenizer of whole words, as transformers saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("models")
    words = {word: n for n, word in enumerate(["[UNK]", *sorted(set(TEXT.split()))])}
    told = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    told.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=told, unk_token="[UNK]")
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
        initializer_range=0.5,
    )  # fmt: skip
    for seed, name in enumerate(("base", "math", "code")):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "text.txt").write_text(TEXT, "utf-8")
    return folder


def test_perplexity_is_that_of_every_next_word(place: Path) -> None:
    """Word after word, the window before it being all that is seen."""
    network = transformers.AutoModelForCausalLM.from_pretrained(place / "math").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "math")
    tokens, losses = tokenizer(TEXT)["input_ids"], []
    for place_of in range(len(tokens)):
        start = place_of // 16 * 16
        if place_of > start:
            with torch.no_grad():
                logits = network(torch.tensor([tokens[start:place_of]])).logits[0, -1].double()
            losses.append(-torch.log_softmax(logits, 0)[tokens[place_of]].item())
    wanted = math.exp(sum(losses) / len(losses))
    assert perplexity(place / "math", TEXT) == pytest.approx(wanted, rel=1e-5)


def test_a_merge_is_checked_beside_its_parents(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(place)
    words = ["merge", "--method", "average", "math", "code", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        run([*words, "--check", "text.txt"])
    assert not left.value.code
    told = capsys.readouterr().out
    names = {"math": place / "math", "code": place / "code", "the merge": tmp_path / "out"}
    for name, value in perplexities(names, TEXT).items():
        assert f"- {name}: {value:.2f}" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [("nowhere.txt", "nowhere.txt: there is no such file"), ("empty.txt", "empty.txt has no text")],
)
def test_a_text_that_cannot_be_read_stops_the_merge_before_it_begins(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, text: str, said: str
) -> None:
    monkeypatch.chdir(place)
    (place / "empty.txt").write_text(" \n", "utf-8")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as left:
        run(["merge", "--method", "average", "math", "code", "-o", str(out), "--check", text])
    assert left.value.code == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_single_word_is_too_little(place: Path) -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        perplexity(place / "math", "cat")
