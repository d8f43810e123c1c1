"""Encoders of more families with tiny random weights: two steps of training, saved, loaded, and the same answers.

Notable: the tokenizers are those that transformers has for these families, with pieces that are learnt here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AlbertTokenizer,
    AutoConfig,
    AutoModel,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

import mtl_hf
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tags import bio_spans
from tests.conftest import SENTENCES, SIZES, byte_level_tokenizer, two_source_config, wordpiece_tokenizer

_T5 = {"d_model": 32, "num_layers": 3, "num_heads": 2, "d_ff": 48, "d_kv": 16}
# Model type → its sizes and its tokenizer.
FAMILIES: dict[str, tuple[dict[str, Any], Callable[[], PreTrainedTokenizerBase]]] = {
    "electra": (SIZES | {"embedding_size": 16}, wordpiece_tokenizer),
    "mpnet": (SIZES, wordpiece_tokenizer),
    "albert": (
        SIZES | {"embedding_size": 16},
        lambda: AlbertTokenizer(vocab=pieces("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
    ),
    "xlm-roberta": (SIZES, lambda: XLMRobertaTokenizer(vocab=pieces("<s>", "<pad>", "</s>", "<unk>"))),
    "camembert": (SIZES, lambda: CamembertTokenizer(vocab=pieces("<s>", "<pad>", "</s>", "<unk>"))),
    "deberta-v2": (
        SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        lambda: DebertaV2Tokenizer(vocab=pieces("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")),
    ),
    "eurobert": (SIZES | {"num_key_value_heads": 2}, lambda: byte_level_tokenizer("eurobert")),
    "t5": (_T5, lambda: T5Tokenizer(vocab=pieces("<pad>", "</s>", "<unk>"), extra_ids=0)),
    "mt5": (_T5, lambda: T5Tokenizer(vocab=pieces("<pad>", "</s>", "<unk>"), extra_ids=0)),
}


def pieces(*special: str) -> list[tuple[str, float]]:
    """The vocabulary of a SentencePiece-like tokenizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=110, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def save(folder: Path, model_type: str, sizes: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """Write an encoder with random weights and its tokenizer, as `AutoModel` saves it."""
    special = {
        f"{kind}_token_id": found
        for kind in ("pad", "bos", "eos", "mask", "cls", "sep")
        if (found := getattr(tokenizer, f"{kind}_token_id")) is not None
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **sizes, **special, vocab_size=len(tokenizer))
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family_trains_and_answers_alike_when_it_is_loaded(family: str, tmp_path: Path) -> None:
    sizes, make = FAMILIES[family]
    folder = save(tmp_path / "encoder", family, sizes, make())
    results = mtl_hf.train(two_source_config(folder, tmp_path / "out", max_steps=2, save_strategy="no"))
    assert results["tasks"].keys() == {"intent", "slots", "stars", "topics"}

    model = MultiTaskModel.from_pretrained(tmp_path / "out")
    untrained = MultiTaskModel.from_encoder(folder)
    assert model.encoder.state_dict().keys() == untrained.encoder.state_dict().keys()
    changed = [
        name
        for name, held in untrained.encoder.state_dict().items()
        if not held.equal(model.encoder.state_dict()[name])
    ]
    assert any("layer" in name or "block" in name for name in changed), "the encoder was trained"
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text("utf-8").splitlines()]
    for line in lines:  # of the model that was trained, before it was loaded
        (answer,) = model.predict([line["text"]])
        if line["source"] == "assistant":
            assert answer["intent"]["label"] == line["tasks"]["intent"]["predicted"]
            spans = bio_spans(line["tasks"]["slots"]["predicted"])
            assert [found["text"] for found in answer["slots"]] == [
                " ".join(line["text"][begin:end]) for _, begin, end in spans
            ]
        else:
            assert answer["stars"] == pytest.approx(line["tasks"]["stars"]["predicted"], abs=1e-4)

    # Every word is an entity, so that the places of all words are seen.
    with torch.no_grad():
        for parameter in model.heads["slots"].parameters():
            parameter.zero_()
        model.heads["slots"].get_parameter("classifier.bias")[model.config.heads["slots"]["labels"].index("B-city")] = 9
    texts = ["  play naïve jazz, in  Paris!", "will it rain in oslo"]
    answers = model.predict(texts)
    for text, answer in zip(texts, answers, strict=True):
        assert [found["text"] for found in answer["slots"]] == text.replace(",", " ,").replace("!", " !").split()
        assert all(text[found["start"] : found["end"]] == found["text"] for found in answer["slots"])
    model.save_pretrained(tmp_path / "again")
    again = MultiTaskModel.from_pretrained(tmp_path / "again")
    assert again.predict(texts) == answers
    assert again.encode(texts).equal(model.encode(texts))


def test_of_t5_the_encoder_alone_is_used_and_its_states_are_the_same(tmp_path: Path) -> None:
    folder = save(tmp_path / "encoder", "t5", *(part() if callable(part) else part for part in FAMILIES["t5"]))
    plain = T5EncoderModel.from_pretrained(folder).eval()
    model = MultiTaskModel.from_encoder(folder)
    assert type(model.encoder) is T5EncoderModel
    assert not [name for name in model.state_dict() if "decoder" in name]
    batch = dict(model.tokenizer(SENTENCES[:3], padding=True, return_tensors="pt"))
    with torch.no_grad():
        assert torch.equal(model.encoder(**batch).last_hidden_state, plain(**batch).last_hidden_state)
    for options in ({"pretrained": False}, {"encoder_config": {"dropout_rate": 0.3}}):
        assert type(MultiTaskModel.from_encoder(folder, **options).encoder) is T5EncoderModel
    model.save_pretrained(tmp_path / "model")
    assert type(MultiTaskModel.from_encoder(tmp_path / "model").encoder) is T5EncoderModel  # as an encoder again
    model.encoder.save_pretrained(tmp_path / "alone")
    model.tokenizer.save_pretrained(tmp_path / "alone")
    alone = MultiTaskModel.from_encoder(tmp_path / "alone")
    assert all(held.equal(alone.state_dict()[name]) for name, held in model.state_dict().items())


# ---- what is no encoder of text ----

_BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
         "max_position_embeddings": 64}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
_VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
        "image_size": 8, "patch_size": 4}  # fmt: skip
_LLAMA = SIZES | {"num_key_value_heads": 2}
_CLIP = {"text_config": SIZES | {"vocab_size": 90}, "vision_config": _VIT}


@pytest.mark.parametrize(
    ("model_type", "sizes", "reason"),
    [
        ("bart", _BART, r"\(BartModel\) is an encoder-decoder, and transformers has no class for its encoder alone"),
        ("gpt2", _GPT2, r"\(GPT2Model\) is a decoder: the state of a token does not depend on the tokens after it"),
        ("llama", _LLAMA, r"\(LlamaModel\) is a decoder"),
        ("bert", SIZES | {"is_decoder": True}, r"\(BertModel\) is a decoder"),
        ("vit", _VIT, r"\(ViTModel\) reads `pixel_values`, not text: choose an encoder of text"),
        ("clip", _CLIP, r"\(CLIPModel\) cannot be used: its configuration has no `hidden_size`"),
    ],
)
def test_what_is_no_encoder_of_text_is_refused_with_the_reason(
    model_type: str, sizes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = save(tmp_path / "encoder", model_type, sizes, wordpiece_tokenizer())
    for pretrained in (True, False):
        with pytest.raises(ValueError, match=reason):
            MultiTaskModel.from_encoder(folder, pretrained=pretrained)


def test_a_tokenizer_without_padding_of_a_decoder_is_refused_with_both_reasons(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    folder = save(tmp_path / "encoder", "gpt2", _GPT2, tokenizer)
    path = tmp_path / "encoder" / "tokenizer_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if "pad" not in key}))
    with pytest.raises(ValueError, match=r"no padding token, .* GPT2Config is of a model that generates text: choose"):
        MultiTaskModel.from_encoder(folder)
