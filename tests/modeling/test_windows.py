"""Long texts in windows: which window a word belongs to, and outputs against windows that are run one by one."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mtl_hf.modeling import reading
from mtl_hf.modeling.encoding import encode
from mtl_hf.modeling.head import HeadInputs, join_segments
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tags import NO_TOKEN
from mtl_hf.modeling.texts import encode_texts, padded_batches
from mtl_hf.modeling.windows import window_starts
from tests.conftest import SENTENCES, byte_level_tokenizer, wordpiece_tokenizer
from tests.modeling.conftest import add_heads, trained

WORDS = " ".join(SENTENCES).split()


def document(num_words: int, seed: int = 0) -> list[str]:
    """Words in random order, some of them of many tokens."""
    draw = random.Random(seed)
    return [draw.choice(WORDS) + draw.choice(["", "", "", "qzxvbn"]) for _ in range(num_words)]


def brute_force(lengths: list[int], size: int, stride: int) -> list[tuple[int, int] | None]:
    """The window of each word, and its first token in it: every word is looked for in every window, token by token.

    Args:
        lengths: Number of tokens of each word.
        size: Tokens of a window, without special ones.
        stride: Tokens that neighbouring windows share.
    """
    tokens = [word for word, length in enumerate(lengths) for _ in range(length)]
    windows, begin = [], 0
    while True:
        windows.append(range(begin, min(begin + size, len(tokens))))
        if begin + size >= len(tokens):
            break
        begin += size - stride
    found: list[tuple[int, int] | None] = []
    for word in range(len(lengths)):
        own = [place for place, other in enumerate(tokens) if other == word]
        best = None
        for number, window in enumerate(windows):
            inside = [place for place in own if place in window]
            if not own or own[0] not in window:
                continue
            context = min(inside[0] - window[0], window[-1] - inside[-1])
            candidate = (len(inside), context, -number)
            if best is None or candidate > best[0]:
                best = candidate, (number, own[0] - window[0])
        found.append(None if best is None else best[1])
    return found


def model_of(folder: Any, **options: Any) -> MultiTaskModel:
    """A model with a head of each type, the same weights for the same folder."""
    torch.manual_seed(1)
    return trained(add_heads(MultiTaskModel.from_encoder(folder, **options)))


# ---- which window a word belongs to ----


@pytest.mark.parametrize("seed", range(20))
def test_a_word_belongs_to_the_window_with_most_context(seed):
    draw = random.Random(seed)
    size = draw.randint(2, 12)
    stride = draw.randint(0, size - 1)
    lengths = [draw.choice([0, 1, 1, 1, 2, 3, size + 2]) for _ in range(draw.randint(1, 40))]
    tokens = [word for word, length in enumerate(lengths) for _ in range(length)]
    windows: list[list[int | None]] = []
    for begin in range(0, max(len(tokens), 1), size - stride):
        windows.append([None, *tokens[begin : begin + size], None])
        if begin + size >= len(tokens):
            break
    expected = brute_force(lengths, size, stride)
    begins = np.cumsum([0, *map(len, windows)]).tolist()
    assert window_starts(windows, len(lengths), stride) == [
        NO_TOKEN if one is None else begins[one[0]] + 1 + one[1] for one in expected
    ]


@pytest.mark.parametrize(
    "tokenizer", [wordpiece_tokenizer(), byte_level_tokenizer("modernbert")], ids=["wordpiece", "bpe"]
)
def test_in_a_document_of_5000_words_each_word_has_one_window(tokenizer):
    if "token_type_ids" not in tokenizer.model_input_names:
        tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    words = document(5000)
    read = encode(tokenizer, [words], form="words", max_length=128, stride=32, word_ids=True)
    (segments,), (starts,), (word_ids,) = read["segments"], read["word_starts"], read["word_ids"]
    assert len(segments) > 50
    assert max(segments) == 128
    assert sum(segments) == len(read["input_ids"][0]) == len(word_ids)
    assert read["cut"] == [False]
    assert NO_TOKEN not in starts
    assert [word_ids[start] for start in starts] == list(range(5000))
    assert starts == sorted(starts)
    lengths = [len(ids) for ids in encode(tokenizer, words, form="string", max_length=64)["input_ids"]]
    lengths = [length - 2 for length in lengths]  # without the special tokens
    begins = np.cumsum([0, *segments]).tolist()
    assert starts == [begins[window] + 1 + place for window, place in brute_force(lengths, 126, 32)]


def test_a_short_text_is_encoded_as_without_windows():
    tokenizer = wordpiece_tokenizer()
    for form, texts in (("string", SENTENCES), ("words", [text.split() for text in SENTENCES])):
        plain = encode(tokenizer, texts, form=form, max_length=40, offsets=True, word_ids=True)
        read = encode(tokenizer, texts, form=form, max_length=40, stride=10, offsets=True, word_ids=True)
        assert read.pop("segments") == [[len(ids)] for ids in plain["input_ids"]]
        assert read == plain


def test_pairs_are_truncated():
    tokenizer = wordpiece_tokenizer()
    pair = [(" ".join(WORDS), SENTENCES[0])]
    assert encode(tokenizer, pair, form="pair", max_length=16, stride=4) == encode(
        tokenizer, pair, form="pair", max_length=16
    )


@pytest.mark.parametrize("stride", [-1, 14, 20])
def test_a_stride_that_leaves_no_new_token_is_refused(stride, encoder_folder):
    with pytest.raises(ValueError, match=rf"`stride` is {stride}; .* can share 0 to 13"):
        MultiTaskModel.from_encoder(encoder_folder, max_length=16, overflow="window", stride=stride)


# ---- truncation ----


def test_truncation_on_the_left_keeps_the_end_and_is_saved(encoder_folder, tmp_path):
    text = " ".join(WORDS)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16, truncation_side="left")
    model.add_head("slots", type="token_classification", labels=["O", "B-x"])
    model.save_pretrained(tmp_path)
    plain = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    whole = plain.tokenizer(text)["input_ids"]
    for one in (model, MultiTaskModel.from_pretrained(tmp_path), MultiTaskModel.from_encoder(tmp_path)):
        (ids,) = encode_texts(one, [text], "string")["input_ids"]
        assert ids == [whole[0], *whole[-15:]]
        (starts,) = encode_texts(one, [WORDS], "words")["word_starts"]
        assert starts[-1] != NO_TOKEN
        assert starts[0] == NO_TOKEN
        long = encode_texts(one, [(text * 40, "to be")], "pair")["input_ids"][0]
        assert long == encode_texts(one, [(text * 3, "to be")], "pair")["input_ids"][0]
    assert encode_texts(plain, [text], "string")["input_ids"] == [[*whole[:15], whole[-1]]]


def test_words_that_are_read_as_one_byte_level_text_keep_side_and_tokens(encoder_folders):
    model = MultiTaskModel.from_encoder(
        encoder_folders["modernbert"], max_length=16, truncation_side="left", add_tokens=["[E1]"]
    )
    model.add_head("slots", type="token_classification", labels=["O", "B-x"])  # loads the tokenizer again
    assert model.tokenizer.truncation_side == "left"
    assert "[E1]" in model.tokenizer.tokenize("play [E1] jazz")


def test_how_much_of_truncated_texts_was_not_read_is_logged(encoder_folder, caplog):
    model = model_of(encoder_folder, max_length=16)
    text = " ".join(WORDS)
    num_tokens = len(model.tokenizer(text)["input_ids"])
    found = model.predict([text, "play jazz", text], heads=["intent"])
    assert [one.get("cut", False) for one in found] == [True, False, True]
    assert (
        f"2 of 3 texts were truncated to 16 tokens; {2 * num_tokens - 32} of their {2 * num_tokens} tokens were not"
        " read."
    ) in caplog.messages


# ---- outputs ----


@pytest.mark.parametrize("overflow", ["truncate", "window"])
def test_texts_that_fit_have_the_same_outputs(overflow, encoder_folder):
    plain, model = model_of(encoder_folder), model_of(encoder_folder, overflow=overflow)
    assert model.predict(SENTENCES, top_k=None, embeddings=True) == plain.predict(
        SENTENCES, top_k=None, embeddings=True
    )
    assert torch.equal(model.encode(SENTENCES), plain.encode(SENTENCES))


def test_outputs_are_those_of_the_windows_one_by_one(encoder_folder):
    model = model_of(encoder_folder, max_length=16, overflow="window", stride=4)
    words = document(60)
    read = encode_texts(model, [words, WORDS[:3]], "words")
    order, arrays = next(padded_batches(model, read, 99))
    batch = model.to_tensors(arrays)
    assert order == [0, 1]
    names = ["slots", "intent", "stars", None]
    with torch.no_grad():
        outputs = model.row_outputs(dict(batch), names)
        begin, tokens, pooled, vectors = 0, [], [], []
        for length in read["segments"][0]:
            ids = torch.tensor([read["input_ids"][0][begin : begin + length]])
            states = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            tokens.append(model.heads["slots"].classifier(states)[0])
            pooled.append(states.mean(1)[0])
            vectors.append(states[0, 0])  # the regression head reads the first token
            begin += length
        intent = model.heads["intent"].classifier(torch.stack(pooled).mean(0))
        stars = model.heads["stars"].regressor(torch.stack(vectors).mean(0))[0]
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(outputs["slots"][0], torch.cat(tokens), **close)
    torch.testing.assert_close(outputs["intent"][0], intent, **close)
    torch.testing.assert_close(outputs["stars"][0], stars, **close)
    torch.testing.assert_close(outputs[None][0], torch.stack(pooled).mean(0), **close)
    torch.testing.assert_close(model.encode([" ".join(words)])[0], outputs[None][0], **close)
    predicted = model.predict([words], heads=["slots"])[0]["slots"]
    best = torch.cat(tokens)[read["word_starts"][0]].argmax(-1).tolist()
    tags = [model.config.heads["slots"]["labels"][index] for index in best]
    assert sum(tag.startswith("B-") for tag in tags) <= len(predicted)  # an I- can begin an entity, too
    found = {entity["start"] for entity in predicted}
    starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
    assert {starts[place] for place, tag in enumerate(tags) if tag.startswith("B-")} <= found


def test_attention_over_windows_is_a_weighted_mean(encoder_folder):
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16, overflow="window", stride=4)
    head: Any = model.add_head("look", type="sequence_classification", labels=["a", "b"], window_pooling="attention")
    torch.nn.init.normal_(head.pool_windows.score.weight)
    states, mask = torch.randn(5, 4, 32), torch.ones(5, 4, dtype=torch.long)
    logits = head.eval()(states, mask, HeadInputs(num_segments=torch.tensor([3, 2])))
    for row, own in ((0, slice(0, 3)), (1, slice(3, 5))):
        vectors = states[own].mean(1)
        weights = (vectors @ head.pool_windows.score.weight[0]).softmax(0)
        torch.testing.assert_close(logits[row], head.classifier(weights @ vectors))
    with pytest.raises(ValueError, match="`window_pooling` is 'sum'; valid are mean, attention"):
        model.add_head("sum", type="regression", window_pooling="sum")


def test_the_loss_over_windows_is_that_of_each_word_once(encoder_folder):
    model = model_of(encoder_folder, max_length=16, overflow="window", stride=4)
    words = document(50)
    read = encode_texts(model, [words], "words")
    _, arrays = next(padded_batches(model, read, 99))
    batch = model.to_tensors(arrays)
    gold = [number % 4 for number in range(len(words))]
    labels = torch.full(batch["input_ids"].shape, -100)
    ends = np.cumsum(read["segments"][0])
    for label, start in zip(gold, read["word_starts"][0], strict=True):
        window = int((ends <= start).sum())
        labels[window, start - (ends[window] - read["segments"][0][window])] = label
    with torch.no_grad():
        output = model(**batch, labels={"slots": labels, "intent": torch.tensor([1])}, heads=["slots", "intent"])
        by_row = model.row_outputs(dict(batch), ["slots", "intent"])
    scores = by_row["slots"][0][read["word_starts"][0]]
    torch.testing.assert_close(output.losses["slots"], F.cross_entropy(scores, torch.tensor(gold)))
    torch.testing.assert_close(output.losses["intent"], F.cross_entropy(by_row["intent"], torch.tensor([1])))


def test_segments_are_joined_by_row():
    values = torch.arange(24.0).view(4, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    joined = join_segments(values, mask, torch.tensor([2, 1, 1]))
    assert joined.shape == (3, 5, 2)
    torch.testing.assert_close(joined[0], torch.cat([values[0, :2], values[1]]))
    torch.testing.assert_close(joined[1], F.pad(values[2, :1], (0, 0, 0, 4)))
    torch.testing.assert_close(joined[2], F.pad(values[3, :2], (0, 0, 0, 3)))


@pytest.mark.parametrize("pooling", ["mean", "mean_last_2"])
def test_few_windows_are_read_at_once(pooling, encoder_folder, monkeypatch):
    model = model_of(encoder_folder, max_length=16, overflow="window", stride=4, pooling=pooling)
    texts = [document(200), document(7), document(30, 1), document(40, 2)]
    whole = model.predict(texts, top_k=None, embeddings=True)
    sizes = []
    model.encoder.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(reading, "WINDOWS_AT_ONCE", 3)
    parts = model.predict(texts, top_k=None, embeddings=True, batch_size=5)
    assert max(sizes) == 3
    for one, other in zip(whole, parts, strict=True):
        assert [entity["text"] for entity in one["slots"]] == [entity["text"] for entity in other["slots"]]
        assert one["stars"] == pytest.approx(other["stars"], abs=1e-4)
        assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-4)


def test_a_batch_has_few_windows_or_one_text(encoder_folder):
    model = model_of(encoder_folder, max_length=16, overflow="window", stride=4)
    read = encode_texts(model, [document(number) for number in (100, 3, 10, 10, 3, 3)], "words")
    windows = [len(own) for own in read["segments"]]
    sizes = [[windows[place] for place in positions] for positions, _ in padded_batches(model, read, 4)]
    assert sizes[0] == [windows[0]]
    assert all(sum(own) <= 4 for own in sizes[1:])
    assert sum(map(len, sizes)) == 6


def test_windows_are_saved_with_the_model(encoder_folder, tmp_path):
    model = model_of(encoder_folder, max_length=16, overflow="window", stride=4)
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path).eval()
    texts = [document(40), document(5, 1)]
    assert again.predict(texts) == model.predict(texts)
    kept = MultiTaskModel.from_encoder(tmp_path, keep_heads=True)
    assert (kept.config.overflow, kept.config.window_stride) == ("window", 4)
    assert MultiTaskModel.from_encoder(tmp_path, stride=2).config.window_stride == 2
    other = MultiTaskModel.from_encoder(tmp_path, overflow="truncate")
    assert (other.config.overflow, other.config.window_stride, other.config.stride) == ("truncate", None, None)


def test_the_default_stride_is_a_quarter(encoder_folder):
    assert MultiTaskModel.from_encoder(encoder_folder, max_length=32, overflow="window").config.window_stride == 8


# ---- refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 3}, "`stride` is 3, but long texts are truncated"),
        ({"overflow": "window", "truncation_side": "left"}, "`truncation_side` is 'left', but with `overflow: window`"),
        ({"overflow": "slide"}, "`overflow` is 'slide'; valid are truncate, window"),
        ({"truncation_side": "middle"}, "`truncation_side` is 'middle'; valid are right, left"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, encoder_folder):
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_encoder(encoder_folder, **options)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"type": "sentence_similarity"}, "'own', which is of type sentence_similarity"),
        ({"type": "multiple_choice"}, "'own', which is of type multiple_choice"),
        ({"type": "extractive_qa"}, "'own', which is of type extractive_qa"),
        ({"type": "regression", "text": "pair"}, "'own', which reads texts of form 'pair'"),
    ],
)
def test_heads_of_several_texts_are_refused_by_name(head, message, encoder_folder, tmp_path):
    model = MultiTaskModel.from_encoder(encoder_folder, overflow="window")
    with pytest.raises(ValueError, match=message):
        model.add_head("own", **head)
    plain = MultiTaskModel.from_encoder(encoder_folder)
    plain.add_head("own", **head)
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_encoder(tmp_path, keep_heads=True, overflow="window")
    MultiTaskModel.from_encoder(tmp_path, overflow="window")  # without its heads


# ---- new tokens ----


def test_new_tokens_are_never_split_and_reloaded(encoder_folder, tmp_path, caplog):
    model = MultiTaskModel.from_encoder(encoder_folder, add_tokens=["[E1]", "[/E1]"])
    plain = MultiTaskModel.from_encoder(encoder_folder)
    size = len(plain.tokenizer)
    assert len(model.get_input_embeddings().weight) == model.config.text_config.vocab_size == size + 2
    assert torch.equal(model.get_input_embeddings().weight[:size], plain.get_input_embeddings().weight)
    assert model.tokenizer.tokenize("Play [E1]jazz[/E1] [e1]")[:4] == ["play", "[E1]", "jazz", "[/E1]"]
    assert model.add_tokens(["jazz", "[E1]", "[E2]"]) == ["[E2]"]
    assert any("already has jazz, [E1]" in message for message in caplog.messages)
    assert model.tokenizer.tokenize("jazzy")[0] == plain.tokenizer.tokenize("jazzy")[0]  # a known token stays as it is
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert again.tokenizer("play [E2] jazz")["input_ids"] == model.tokenizer("play [E2] jazz")["input_ids"]
    assert torch.equal(again.encode(["play [E1] jazz"]), model.encode(["play [E1] jazz"]))
    more = MultiTaskModel.from_encoder(tmp_path, add_tokens=["[E1]", "[E3]"])
    assert len(more.tokenizer) == size + 4
    assert torch.equal(more.get_input_embeddings().weight[: size + 3], model.get_input_embeddings().weight)


def test_tied_heads_are_resized_and_can_mask_new_tokens(encoder_folder):
    model = MultiTaskModel.from_encoder(encoder_folder)
    head: Any = model.add_head("mlm", type="masked_lm")
    bias = copy.deepcopy(head.bias)
    model.add_tokens(["[E1]"])
    assert torch.equal(head.bias[:-1], bias)
    assert len(head.bias) == len(model.tokenizer) == len(bias) + 1
    assert model.tokenizer.convert_tokens_to_ids("[E1]") not in model.tokenizer.all_special_ids


@pytest.mark.parametrize("tokens", [[""], [" [E1]"], ["[E1]", "[E1]"]])
def test_tokens_that_cannot_be_added_are_refused(tokens, encoder_folder):
    with pytest.raises(ValueError, match="`add_tokens`"):
        MultiTaskModel.from_encoder(encoder_folder, add_tokens=tokens)
