"""Tests of `mtl_hf.modeling.encoding`: words and their tokens, cut texts, tokenizers that are refused, limits."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mtl_hf.modeling.encoding import check_text, encode
from mtl_hf.modeling.tags import NO_TOKEN
from mtl_hf.modeling.tokenizing import load_tokenizer, longest_input
from tests.conftest import FAMILIES, SENTENCES, byte_level_tokenizer, wordpiece_tokenizer

WORDS = ["play", "unseenword", "in", "paris", ",", "tomorrow"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(family: str, encoder_folders: dict[str, Path]) -> PreTrainedTokenizerBase:
    """Of each family in turn, for lists of words."""
    return load_tokenizer(str(encoder_folders[family]), words=True)


def num_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """How many tokens a word makes, counted on its own."""
    return len(tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"])


# Words in a list and in a sentence


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_of_a_list_get_the_tokens_that_they_get_in_a_sentence(
    tokenizer: PreTrainedTokenizerBase, sentence: str
) -> None:
    words = encode(tokenizer, [sentence.split()], form="words", max_length=64)
    assert words["input_ids"] == encode(tokenizer, [sentence], form="string", max_length=64)["input_ids"]


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_byte_level_tokenizers_as_they_come_glue_the_words_of_a_list(
    family: str, encoder_folders: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder_folders[family])
    in_list = tokenizer(["play", "jazz"], is_split_into_words=True)["input_ids"]
    assert in_list == tokenizer("playjazz")["input_ids"]
    assert in_list != tokenizer("play jazz")["input_ids"]


@pytest.mark.parametrize("words", [True, False])
def test_a_saved_tokenizer_is_loaded_as_it_was(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, words: bool
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path), words=words)
    for sentence in SENTENCES:
        before = encode(tokenizer, [sentence.split()], form="words", max_length=64)
        assert encode(again, [sentence.split()], form="words", max_length=64) == before
        assert encode(again, [sentence], form="string", max_length=64)["input_ids"] == before["input_ids"]


def test_strings_get_the_tokens_of_the_plain_tokenizer_without_words(
    family: str, encoder_folders: dict[str, Path]
) -> None:
    plain = AutoTokenizer.from_pretrained(encoder_folders[family])
    ours = load_tokenizer(str(encoder_folders[family]))
    assert encode(ours, SENTENCES, form="string", max_length=64)["input_ids"] == plain(SENTENCES)["input_ids"]


# Refused tokenizers


def test_tokenizer_without_alignment_is_refused_for_words_only(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert not load_tokenizer(str(tmp_path)).is_fast
    with pytest.raises(ValueError, match=r"\(ByT5Tokenizer\) cannot align words with tokens.*choose an encoder"):
        load_tokenizer(str(tmp_path), words=True)


def test_tokenizer_that_reads_lists_otherwise_is_refused_for_words(tmp_path: Path) -> None:
    vocabulary = {token: index for index, token in enumerate(["<unk>", "to", "▁to", "be", "▁be"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))("to be")["input_ids"] == [1, 4]
    with pytest.raises(ValueError, match="gives a list of words other tokens than the same words in a sentence"):
        load_tokenizer(str(tmp_path), words=True)


# encode


def test_word_starts_are_the_first_sub_words(tokenizer: PreTrainedTokenizerBase) -> None:
    sizes = [num_tokens(tokenizer, word) for word in WORDS]
    assert max(sizes) > 1
    expected = [1 + sum(sizes[:index]) for index in range(len(WORDS))]  # 1: the token that opens the text
    rows = encode(tokenizer, [WORDS, WORDS[:1]], form="words", max_length=64)
    assert rows["word_starts"] == [expected, [1]]
    assert rows["cut"] == [False, False]
    assert [len(ids) for ids in rows["input_ids"]] == [sum(sizes) + 2, sizes[0] + 2]


def test_words_beyond_the_limit_have_no_token(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = encode(tokenizer, [WORDS], form="words", max_length=64)["word_starts"][0]
    full = len(encode(tokenizer, [WORDS], form="words", max_length=64)["input_ids"][0])
    for max_length in range(3, full + 2):
        rows = encode(tokenizer, [WORDS], form="words", max_length=max_length)
        # The last position is the token that closes the text.
        assert rows["word_starts"] == [[start if start < max_length - 1 else NO_TOKEN for start in whole]]
        assert rows["cut"] == [max_length < full]
        assert len(rows["input_ids"][0]) == min(max_length, full)


@pytest.mark.parametrize("nothing", ["", " ", "\u200b", "\x00"])
def test_word_that_the_tokenizer_makes_nothing_of_has_no_token(nothing: str) -> None:
    tokenizer = wordpiece_tokenizer()
    assert num_tokens(tokenizer, nothing) == 0
    rows = encode(tokenizer, [[nothing, "play", nothing, nothing, "jazz", nothing]], form="words", max_length=64)
    jazz = 1 + num_tokens(tokenizer, "play")
    assert rows["word_starts"] == [[NO_TOKEN, 1, NO_TOKEN, NO_TOKEN, jazz, NO_TOKEN]]


def test_empty_word_leaves_its_neighbours_in_place(tokenizer: PreTrainedTokenizerBase) -> None:
    without = encode(tokenizer, [["play", "jazz"]], form="words", max_length=64)["word_starts"][0]
    rows = encode(tokenizer, [["play", "", "jazz"], []], form="words", max_length=64)
    assert rows["word_starts"] == [[without[0], NO_TOKEN, without[1]], []]


def test_pairs_are_two_texts_in_one_row(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = ("play some jazz", "book a table")
    rows = encode(tokenizer, [pair], form="pair", max_length=64)
    assert rows["input_ids"] == [tokenizer(*pair)["input_ids"]]
    assert "word_starts" not in rows
    if "token_type_ids" in rows:
        first = len(tokenizer(pair[0])["input_ids"])
        second = len(tokenizer(pair[1], add_special_tokens=False)["input_ids"]) + 1
        assert rows["token_type_ids"] == [[0] * first + [1] * second]


def test_texts_apart_are_encoded_one_by_one(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [(SENTENCES[0], SENTENCES[3]), (SENTENCES[2], "play"), ("", "play")]
    for limit in (64, 7):
        rows = encode(tokenizer, texts, form="apart", max_length=limit)
        alone = [encode(tokenizer, [pair[side] for pair in texts], form="string", max_length=limit) for side in (0, 1)]
        for row in range(3):
            first, second = (side["input_ids"][row] for side in alone)
            assert rows["input_ids"][row] == first + second
            assert rows["segments"][row] == [len(first), len(second)]
            assert len(first) <= limit
            assert rows["cut"][row] is (alone[0]["cut"][row] or alone[1]["cut"][row])
            if "token_type_ids" in rows:
                assert rows["token_type_ids"][row] == [0] * len(first + second)
        assert any(rows["cut"]) == (limit == 7)
        assert not all(rows["cut"])


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = "play jazz", "book a table for two in rome near the river"
    full = len(tokenizer(short, long)["input_ids"])
    [row] = encode(tokenizer, [(short, long)], form="pair", max_length=full - 5)["input_ids"]
    kept = tokenizer(short)["input_ids"]
    assert row[: len(kept)] == kept
    assert len(row) == full - 5
    assert encode(tokenizer, [(short, long)] * 2, form="pair", max_length=full - 5)["cut"] == [True, True]
    assert encode(tokenizer, [(short, long)], form="pair", max_length=full)["cut"] == [False]


def test_segments_are_given_only_where_the_encoder_reads_them() -> None:
    assert "token_type_ids" in encode(wordpiece_tokenizer(), ["play"], form="string", max_length=9)
    assert "token_type_ids" not in encode(byte_level_tokenizer("modernbert"), ["play"], form="string", max_length=9)


def test_slow_tokenizer_counts_a_row_that_fills_the_limit_as_cut() -> None:
    rows = encode(ByT5Tokenizer(), ["play jazz", "play"], form="string", max_length=8)
    assert rows["cut"] == [True, False]
    assert [len(ids) for ids in rows["input_ids"]] == [8, 5]


# longest_input

# The largest input is not the size of the table of positions where these begin after the padding index.
TYPES = (
    *("bert", "distilbert", "electra", "deberta-v2", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"),
    *("roberta-prelayernorm", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "esm"),
)


MORE_SIZES = {"longformer": {"attention_window": [4]}, "luke": {"entity_vocab_size": 10}}


@pytest.mark.parametrize("pad_token_id", [1, 3])
@pytest.mark.parametrize("model_type", TYPES)
def test_longest_input_is_the_most_that_the_encoder_can_take(model_type: str, pad_token_id: int) -> None:
    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 20,
        "pad_token_id": pad_token_id,
    }
    config = AutoConfig.for_model(model_type, **sizes, **MORE_SIZES.get(model_type, {}))
    encoder = AutoModel.from_config(config).eval()
    limit = longest_input(SimpleNamespace(model_max_length=10**30), config)
    with torch.no_grad():
        encoder(input_ids=torch.full((1, limit), 7), attention_mask=torch.ones(1, limit, dtype=torch.long))
        longer = limit + 1
        with pytest.raises((IndexError, RuntimeError)):
            encoder(input_ids=torch.full((1, longer), 7), attention_mask=torch.ones(1, longer, dtype=torch.long))


@pytest.mark.parametrize(
    ("family", "limit"), [("bert", 64), ("distilbert", 64), ("roberta", 62), ("deberta-v2", 64), ("modernbert", 64)]
)
def test_longest_input_of_each_family(family: str, limit: int, encoder_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(encoder_folders[family]))
    assert longest_input(tokenizer, AutoConfig.from_pretrained(encoder_folders[family])) == limit
    tokenizer.model_max_length = 40
    assert longest_input(tokenizer, AutoConfig.from_pretrained(encoder_folders[family])) == 40


@pytest.mark.parametrize("config", [{}, {"max_position_embeddings": -1}, {"max_position_embeddings": None}])
def test_longest_input_is_512_where_nobody_says(config: dict) -> None:
    config = SimpleNamespace(model_type="t5", **config)
    assert longest_input(SimpleNamespace(model_max_length=10**30), config) == 512


@pytest.mark.parametrize("family", FAMILIES)
def test_a_very_long_pair_is_cut_as_a_shorter_one(family: str, encoder_folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(encoder_folders[family]))
    long, short = "play some jazz in paris " * 60, "book a table"
    for pair in ((long, long), (long, short), (short, long)):
        found = encode(tokenizer, [pair], form="pair", max_length=20)
        whole = tokenizer(*pair, truncation=True, max_length=20)["input_ids"]
        tokenizer.backend_tokenizer.no_truncation()
        assert found["input_ids"] == [whole]
        assert found["cut"] == [True]


def test_halves_of_surrogate_pairs_become_a_sign_of_the_same_length() -> None:
    assert check_text("a\ud83db", 1) == "a\ufffdb"
    assert check_text(["\ude00", "jazz"], 1) == ["\ufffd", "jazz"]
    assert check_text(("naïve 🙂", "x"), 1) == ("naïve 🙂", "x")
