"""Tests of `mtl_hf.modeling.texts`: answers of every encoder family to raw texts, alone, in batches and in streams."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch import Tensor, nn
from tqdm import tqdm

from mtl_hf.modeling import texts as texts_module
from mtl_hf.modeling.head_token_classification import TokenClassificationHead
from mtl_hf.modeling.heads import head_spec
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.answers import assert_same
from tests.conftest import SENTENCES
from tests.modeling.conftest import TAGS, make_batch, trained


def best(labels: list[str], logits: Tensor) -> tuple[str, float]:
    scores = logits.detach().double().softmax(-1)
    return labels[int(scores.argmax())], float(scores.max())


def check_answer(model: MultiTaskModel, found: dict, logits: dict[str, Tensor]) -> None:
    """Compare answers to one text with logits of that text alone, (1, ...)."""
    label, score = best(["music", "booking", "weather"], logits["intent"][0])
    assert found["intent"] == {"label": label, "score": pytest.approx(score, abs=1e-4)}
    chances = zip(["food", "place"], logits["topics"][0].double().sigmoid().tolist(), strict=True)
    expected = [{"label": name, "score": pytest.approx(chance, abs=1e-4)} for name, chance in chances if chance >= 0.5]
    assert found["topics"] == expected
    assert found["stars"] == pytest.approx(logits["stars"].item(), abs=1e-4)


@pytest.mark.parametrize("as_words", [False, True], ids=["strings", "lists of words"])
def test_answers_are_those_of_each_text_alone(model: MultiTaskModel, as_words: bool) -> None:
    results = model.predict([text.split() for text in SENTENCES] if as_words else SENTENCES, batch_size=3)
    num_entities = 0
    for text, found in zip(SENTENCES, results, strict=True):
        assert list(found) == ["slots", "intent", "topics", "stars"]
        batch = make_batch(model, [text])
        with torch.no_grad():
            logits = model(**batch).logits
        check_answer(model, found, logits)
        # Entities: each word is read at its first token; an I- without its B- begins one.
        position, tags, offset = 1, [], 0
        for word in text.split():
            label, score = best(TAGS, logits["slots"][0, position])
            tags.append((label, score, offset, offset + len(word)))
            ids = model.tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
            position += len(ids)
            offset += len(word) + 1
        entities: list[dict] = []
        previous = "O"
        for label, score, start, end in tags:
            if label == "I-city" and previous in ("B-city", "I-city"):
                entities[-1]["end"] = end
                entities[-1]["scores"].append(score)
            elif label != "O":
                entities.append({"type": label[2:], "start": start, "end": end, "scores": [score]})
            previous = label
        num_entities += len(entities)
        assert found["slots"] == [
            {
                "type": entity["type"],
                "text": text[entity["start"] : entity["end"]],
                "start": entity["start"],
                "end": entity["end"],
                "score": pytest.approx(float(np.mean(entity["scores"])), abs=1e-4),
            }
            for entity in entities
        ]
    assert num_entities > 3


class TagByToken(TokenClassificationHead):
    """A head that tags by token id, read from what the encoder was fed: city names B-, then I-, all else O."""

    def __init__(self, model: MultiTaskModel, tags: dict[str, str]) -> None:
        super().__init__(head_spec(model.config.heads["slots"]), model.encoder_shape)
        self.tags = {}
        for word, tag in tags.items():
            ids = model.tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
            self.tags[ids[0]] = TAGS.index(tag)
        model.encoder.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, _module: nn.Module, _arguments: tuple, options: dict) -> None:
        self.ids = options["input_ids"]

    def forward(self, states: Tensor, attention_mask: Tensor, inputs: object = None) -> Tensor:
        chosen = torch.tensor([[self.tags.get(token, 0) for token in row] for row in self.ids.tolist()])
        return nn.functional.one_hot(chosen, len(TAGS)).float() * 9


def test_entities_point_into_the_text_that_was_given(model: MultiTaskModel) -> None:
    model.heads["slots"] = TagByToken(model, {"rome": "B-city", "river": "I-city", "today": "B-when"})
    texts = [
        "  is it warm\tin rome   river, (today)?",
        ["is", "it", "warm", "in", "rome", "river", ",", "today"],
        ["today"],
        "book a table",
    ]
    results = model.predict(texts, heads="slots", batch_size=2)
    found = [[(entity["type"], entity["start"], entity["end"]) for entity in row["slots"]] for row in results]
    assert found == [
        [("city", 16, 28), ("when", 31, 36)],
        [("city", 14, 24), ("when", 27, 32)],
        [("when", 0, 5)],
        [],
    ]
    assert [[entity["text"] for entity in row["slots"]] for row in results] == [
        ["rome   river", "today"],
        ["rome river", "today"],
        ["today"],
        [],
    ]


def test_pairs_are_answered_by_heads_for_pairs_and_only_by_them(model: MultiTaskModel) -> None:
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    nn.init.normal_(model.heads["same"].classifier.weight)
    trained(model)
    pair = ("play some jazz", "book a table")
    string, both, words = model.predict(["play jazz today", pair, ["play", "jazz", "today"]])
    assert list(string) == list(words) == ["slots", "intent", "topics", "stars"]
    logits = model(**model.tokenizer(*pair, return_tensors="pt"), heads="same").logits["same"]
    label, score = best(["no", "yes"], logits[0])
    assert both == {"same": {"label": label, "score": pytest.approx(score, abs=1e-4)}}
    assert model.predict([pair], heads="intent") == [{}]
    assert model.predict(["play"], heads="same") == [{}]


def test_the_cosine_of_a_pair_is_that_of_its_embeddings(model: MultiTaskModel) -> None:
    model.add_head("alike", type="sentence_similarity")
    model.add_head("near", type="sentence_similarity", pooling="max", loss="ranking")
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    assert model.config.heads["alike"]["text"] == "apart"
    trained(model)
    pairs = [*zip(SENTENCES, reversed(SENTENCES), strict=True), ("play", "play"), ("a", "")]
    answers = model.predict(pairs, batch_size=3)
    assert [list(found) for found in answers] == [["alike", "near", "same"]] * 10
    for name, pooling in (("alike", "mean"), ("near", "max")):
        first, second = (
            model.encode([pair[side] for pair in pairs], normalize=True, pooling=pooling) for side in (0, 1)
        )
        for row, found in enumerate(answers):
            assert type(found[name]) is float
            assert found[name] == pytest.approx((first[row] @ second[row]).item(), abs=1e-5)
        assert answers[8][name] == pytest.approx(1)
    mixed = model.predict(["play jazz", pairs[0]], heads=["alike", "intent"])
    assert [list(found) for found in mixed] == [["intent"], ["alike"]]


def test_a_similarity_head_without_weights_is_not_called_untrained(
    encoder_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("alike", type="sentence_similarity")
    model.add_head("look", type="sentence_similarity", pooling="attention")
    model.predict([("play", "jazz")])
    assert caplog.messages == ["Head 'look' has not been trained: its predictions are random."]


def test_loss_of_pairs_is_that_of_their_cosines(bert: MultiTaskModel) -> None:
    bert.add_head("alike", type="sentence_similarity")
    batch = make_batch(bert, SENTENCES[:6])
    output = bert(**batch, heads="alike", labels={"alike": torch.tensor([0.2, float("nan"), 1.0])})
    vectors = bert.encode(SENTENCES[:6], normalize=True)
    by_hand = [((vectors[0] @ vectors[1]).item() - 0.2) ** 2, ((vectors[4] @ vectors[5]).item() - 1.0) ** 2]
    assert output.loss.item() == pytest.approx(sum(by_hand) / 2, rel=1e-4)


def test_a_single_string_is_refused(bert: MultiTaskModel) -> None:
    with pytest.raises(ValueError, match="`texts` is a single string; give a list of texts"):
        bert.predict("play jazz")


def test_heads_read_a_text_as_they_were_trained_to(bert: MultiTaskModel) -> None:
    # Inside a string the zero-width space vanishes; `split_words` parts two words at it, which gives other tokens.
    passes = []
    bert.encoder.register_forward_hook(lambda *_: passes.append(1))
    bert.predict(["play pa-ris"])
    assert len(passes) == 1
    passes.clear()
    text = "play ja\u200bzz"
    [found] = bert.predict([text])
    assert len(passes) == 2
    logits = bert(**make_batch(bert, [text])).logits
    check_answer(bert, found, logits)


def test_a_text_with_other_tokens_costs_only_itself_a_second_pass(bert: MultiTaskModel) -> None:
    sizes = []
    bert.encoder.register_forward_pre_hook(
        lambda _module, _arguments, options: sizes.append(len(options["input_ids"])), with_kwargs=True
    )
    texts = [*SENTENCES, "play ja\u200bzz"]
    answers = bert.predict(texts, batch_size=16)
    assert sizes == [8, 1, 1]
    for text, found in zip(texts, answers, strict=True):
        check_answer(bert, found, bert(**make_batch(bert, [text])).logits)


def test_streams_are_answered_in_chunks_that_grow(bert: MultiTaskModel) -> None:
    texts = [f"{SENTENCES[number % 8]} {number}" for number in range(50)]
    read: list[str] = []
    stream = bert.predict_stream((read.append(text) or text for text in texts), batch_size=2)
    counts = []
    for _ in texts:
        next(stream)
        counts.append(len(read))
    assert counts == [2] * 2 + [6] * 4 + [14] * 8 + [30] * 16 + [50] * 20
    for found, text in zip(bert.predict(texts, batch_size=2), texts, strict=True):
        check_answer(bert, found, bert(**make_batch(bert, [text])).logits)


def test_very_long_texts_are_read_a_few_at_a_time(bert: MultiTaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "MOST_CHARACTERS", 30)
    read: list[str] = []
    stream = bert.predict_stream(read.append(text) or text for text in ["jazz" * 10, "jazz", "a" * 27, "b"])
    next(stream)
    assert len(read) == 1
    next(stream)
    assert len(read) == 3


def test_embeddings_beside_answers_are_those_of_encode(model: MultiTaskModel) -> None:
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    trained(model)
    pair = ("play jazz", "in rome")
    texts = [*SENTENCES, "", "play ja\u200bzz", ["play", "jazz"]]
    answers = model.predict([*texts, pair], embeddings=True)
    expected = torch.cat([model.encode(texts), model.encode([pair])])
    torch.testing.assert_close(torch.tensor([one["embedding"] for one in answers]), expected, rtol=1e-4, atol=1e-5)
    assert list(answers[0]) == ["slots", "intent", "topics", "stars", "embedding"]
    assert list(answers[-1]) == ["same", "embedding"]
    assert list(model.predict(["play"], heads=[], embeddings=True)[0]) == ["embedding"]


def test_all_labels_are_answered_on_request(bert: MultiTaskModel) -> None:
    [found] = bert.predict(["play jazz"], top_k=None)
    [best_one] = bert.predict(["play jazz"])
    assert {one["label"] for one in found["intent"]} == {"music", "booking", "weather"}
    assert sum(one["score"] for one in found["intent"]) == pytest.approx(1)
    assert found["intent"][0] == best_one["intent"]
    assert (found["slots"], found["stars"]) == (best_one["slots"], best_one["stars"])
    assert [one["score"] for one in found["topics"]] == sorted((one["score"] for one in found["topics"]), reverse=True)


def test_texts_of_one_batch_have_each_their_own_number_of_labels(bert: MultiTaskModel) -> None:
    texts: list[Any] = [*SENTENCES[:5], SENTENCES[5].split(), "jazz"]
    numbers = [1, 3, None, 2, 1, 2, 3]
    found = texts_module.answer_stream(
        bert, texts, ["intent", "topics"], batch_size=4, top_k=numbers, bar=tqdm(disable=True), report=lambda *_: None
    )
    for text, number, answer in zip(texts, numbers, found, strict=True):
        (alone,) = bert.predict([text], heads=["intent", "topics"], top_k=number)
        assert_same(alone, answer)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda model: model.predict(["play", None]),
            "text 2 is None; it should be a string, a list of words, or a tuple",
        ),
        (lambda model: model.predict([("a", "b", "c")]), "text 1 is"),
        (lambda model: model.predict([["play", 3]]), "text 1 is"),
        (lambda model: model.encode([3.5]), "text 1 is 3.5"),
        (lambda model: model.encode(["play", ("a", "b")]), "`texts` has both pairs and single texts"),
        (lambda model: model.predict_stream(["play"], heads="mood"), "`heads` has"),
        (lambda model: model.predict_stream(["play"], heads=[]), "no heads"),
        (lambda model: model.predict_stream(["play"], batch_size=0), "`batch_size` is 0; it should be at least 1"),
        (lambda model: model.predict_stream(["play"], top_k=0), "`top_k` is 0"),
    ],
)
def test_what_is_no_text_or_cannot_be_asked_is_refused(
    bert: MultiTaskModel, run: Callable[[MultiTaskModel], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(bert)


def test_embeddings_do_not_hide_a_head_of_that_name(bert: MultiTaskModel) -> None:
    bert.add_head("embedding", type="regression")
    with pytest.raises(ValueError, match="a head is called 'embedding'"):
        bert.predict(["play"], embeddings=True)
    assert isinstance(bert.predict(["play"], heads="embedding")[0]["embedding"], float)


# Every piece of the one with every piece of the other would take hours.
@pytest.mark.parametrize("pair", [("play " * 20_000, "!" * 100_000), ("", "a" * 100_000), ("jazz " * 20_000, "")])
def test_very_long_pairs_are_answered(model: MultiTaskModel, pair: tuple[str, str]) -> None:
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    trained(model)
    [found] = model.predict([pair])
    assert found["same"]["label"] in ("no", "yes")
    assert torch.isfinite(model.encode([pair])).all()


@pytest.mark.parametrize(
    "text", ["", "   ", "\u200b", "\ud800", "a" * 100_000, "play jazz " * 10_000, "!?" * 1_000, [], [""]]
)
def test_strange_texts_are_answered(model: MultiTaskModel, text: str | list[str]) -> None:
    [found, beside] = model.predict([text, "play jazz"])
    assert [name for name in found if name != "cut"] == ["slots", "intent", "topics", "stars"]
    assert isinstance(found["stars"], float)
    assert found["stars"] == found["stars"]
    whole = (text if isinstance(text, str) else " ".join(text)).replace("\ud800", "\ufffd")
    assert all(entity["text"] == whole[entity["start"] : entity["end"]] for entity in found["slots"])
    assert beside["stars"] == pytest.approx(model.predict(["play jazz"])[0]["stars"], abs=1e-4)
    assert model.predict([text])[0]["intent"]["label"] == found["intent"]["label"]
    assert torch.isfinite(model.encode([text])).all()


def test_heads_that_get_no_text_of_their_form_say_so(encoder_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    with pytest.raises(ValueError, match="no heads"):
        model.predict(["play"])
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        assert model.predict(["play"]) == [{}]
    assert (
        "No prediction from same: they read only pairs (tuples; on the command line, two texts with a tab between"
        " them)." in caplog.messages
    )
    assert set(model.predict([("play", "jazz")])[0]) == {"same"}


def test_texts_without_any_token_are_answered_as_beside_others(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.tokenizer.backend_tokenizer.post_processor = processors.Sequence([])  # adds no special tokens
    model.add_head("intent", type="sequence_classification", labels=["play", "book"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city"])
    empty = ["", " ", "\u200b"]
    alone, beside = model.encode(empty), model.encode([*empty, "play some jazz"])
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(alone, beside[:3])
    for answer, other in zip(model.predict(empty), model.predict([*empty, "play some jazz"]), strict=False):
        assert answer["slots"] == other["slots"] == []
        assert answer["intent"]["score"] == pytest.approx(other["intent"]["score"])


def test_a_model_that_only_fills_in_tokens_says_so_when_asked_for_answers(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("mlm", type="masked_lm")
    with pytest.raises(
        ValueError, match=r"no heads to predict with \(only mlm, which predicts nothing for a raw text\)"
    ):
        model.predict(["play some jazz"])


@pytest.mark.parametrize(
    ("text", "cut"),
    [("play " * 40, True), (["play"] * 40, True), (("play " * 40, "jazz"), True), (("play", "jazz"), None),
     ("play jazz", None)],
)  # fmt: skip
def test_a_text_that_is_cut_is_said_in_its_answer(
    text: object, cut: bool | None, encoder_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=12)
    model.add_head("intent", type="sequence_classification", labels=["music", "booking"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city"])
    model.add_head("same", type="sentence_similarity")
    (found,) = model.predict([text])
    assert found.get("cut") is cut
    assert ("1 of 1 texts were truncated to 12 tokens" in caplog.text) == bool(cut)
    (embedded,) = model.predict([text], heads=[], embeddings=True)
    assert embedded.get("cut") is cut
    caplog.clear()
    model.encode([" ".join(text) if isinstance(text, list) else text])
    assert ("1 of 1 texts were truncated to 12 tokens" in caplog.text) == bool(cut)


def test_a_head_called_cut_keeps_its_answer(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=12)
    model.add_head("cut", type="regression")
    (found,) = model.predict(["play " * 40])
    assert isinstance(found["cut"], float)


@pytest.mark.parametrize("texts", [None, 3, 1.5, b"bytes", {"text": "a"}, "a single string"])
def test_what_is_no_list_of_texts_is_refused(bert: MultiTaskModel, texts: Any) -> None:
    with pytest.raises(ValueError, match=r"^`texts` is a .*; give a list of texts"):
        bert.predict(texts)
    if not isinstance(texts, str):
        with pytest.raises(ValueError, match=r"^`texts` is a "):
            bert.encode(texts)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "it should be at least 1"), ("a", "it should be a whole number"), (1.5, "number")]
)
def test_a_batch_is_a_whole_number_of_texts(bert: MultiTaskModel, value: Any, expected: str) -> None:
    for answer in (bert.predict, bert.encode):
        with pytest.raises(ValueError, match=f"`batch_size` is {value!r}; .*{expected}"):
            answer(["play jazz"], batch_size=value)


@pytest.mark.parametrize("heads", [3, [["intent"]], [None], "nothing"])
def test_heads_that_are_no_names_are_refused(bert: MultiTaskModel, heads: Any) -> None:
    with pytest.raises(ValueError, match="`heads` has"):
        bert.predict(["play jazz"], heads=heads)
