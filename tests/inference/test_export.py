"""One head as a stock model: the same labels, logits and pipelines, or an error that says what stands between."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    ElectraConfig,
    EuroBertConfig,
    pipeline,
)

import mtl_hf
from mtl_hf.inference import export
from mtl_hf.inference.export import stock_model
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import FAMILIES, SENTENCES, SIZES, wordpiece_tokenizer

SORTS = ["noun", "verb", "place", "time"]


def trained(encoder: Path, folder: Path, **heads: dict) -> MultiTaskModel:
    """A saved model whose norms and heads are far from what they start as."""
    model = MultiTaskModel.from_encoder(encoder)
    for name, spec in heads.items():
        model.add_head(name, **spec)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    for head in model.heads.values():
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.7)
    model.save_pretrained(folder)
    return MultiTaskModel.from_pretrained(folder)


def encoded(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    """A padded batch by the exported tokenizer."""
    return AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")


@pytest.mark.parametrize("family", FAMILIES)
def test_words_get_the_same_labels_from_the_stock_class_and_its_pipeline(family, encoder_folders, tmp_path):
    spec = {"type": "token_classification", "labels": SORTS, "dropout": 0.25}
    model = trained(encoder_folders[family], tmp_path / "model", sorts=spec)
    folder = mtl_hf.export_head(tmp_path / "model", "sorts", tmp_path / "stock")
    stock = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=False)
    assert type(stock).__module__.startswith("transformers.models.")
    assert list(stock.config.id2label.values()) == SORTS
    assert stock.config.label2id == {label: index for index, label in enumerate(SORTS)}
    assert getattr(stock.config, "classifier_dropout", 0.25) == 0.25
    batch = encoded(folder, SENTENCES)
    wanted = model(**batch).logits["sorts"]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(stock(**batch).logits[real], wanted[real], atol=1e-4, rtol=1e-5)

    answers = model.predict(SENTENCES)
    tagger = pipeline("token-classification", model=str(folder), device="cpu")
    assert tagger.tokenizer.model_max_length == model.config.max_length
    for text, ours, theirs in zip(SENTENCES, answers, tagger(SENTENCES), strict=True):
        by_start: dict[int, str] = {}
        for token in theirs:  # the first token of a word counts; byte-level ones may begin with its space
            by_start.setdefault(token["start"] + text[token["start"]].isspace(), token["entity"])
        assert [by_start[word["start"]] for word in ours["sorts"]] == [word["label"] for word in ours["sorts"]]


def test_pipelines_cut_long_texts_as_the_log_says(encoder_folders, tmp_path, caplog):
    heads = {
        "sort": {"type": "sequence_classification", "labels": SORTS, "pooling": "cls"},
        "sorts": {"type": "token_classification", "labels": SORTS},
    }
    model = trained(encoder_folders["distilbert"], tmp_path / "model", **heads)
    caplog.set_level("INFO", logger="mtl_hf")
    for head in heads:
        mtl_hf.export_head(tmp_path / "model", head, tmp_path / head)
    sort, sorts = [record.getMessage() for record in caplog.records if "written to" in record.getMessage()]
    assert f'pipeline("text-classification", model="{tmp_path / "sort"}", truncation=True)' in sort
    assert sorts.endswith("sorts.")
    text = "play jazz in the kitchen " * 100
    pipeline("token-classification", model=str(tmp_path / "sorts"), device="cpu")(text)
    cut = pipeline("text-classification", model=str(tmp_path / "sort"), device="cpu", truncation=True)
    (answer,) = cut(text)
    assert answer["score"] == pytest.approx(model.predict([text])[0]["sort"]["score"], abs=1e-4)
    with pytest.raises((RuntimeError, IndexError)):
        pipeline("text-classification", model=str(tmp_path / "sort"), device="cpu")(text)


# Families whose class for sequences has a layer with relu (distilbert) or gelu before the last, or a norm (modernbert).
@pytest.mark.parametrize("family", ["distilbert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("kind", ["sequence_classification", "multi_label_classification", "regression"])
def test_heads_on_the_first_token_fit_where_the_activation_can_be_undone(family, kind, encoder_folders, tmp_path):
    spec = {"type": kind, "pooling": "cls"} | ({} if kind == "regression" else {"labels": SORTS})
    model = trained(encoder_folders[family], tmp_path / "model", sort=spec)
    folder = mtl_hf.export_head(tmp_path / "model", "sort", tmp_path / "stock")
    stock = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
    batch = encoded(folder, SENTENCES)
    logits = stock(**batch).logits
    wanted = model(**batch).logits["sort"]
    torch.testing.assert_close(logits if wanted.dim() == 2 else logits.squeeze(-1), wanted, atol=1e-4, rtol=1e-5)

    classify = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    for answer, theirs in zip(model.predict(SENTENCES), classify(SENTENCES), strict=True):
        if kind == "regression":
            assert theirs == [{"label": "sort", "score": pytest.approx(answer["sort"], abs=1e-4)}]
        elif kind == "sequence_classification":
            assert theirs[0] == {"label": answer["sort"]["label"], "score": pytest.approx(answer["sort"]["score"])}
        else:
            found = {item["label"]: pytest.approx(item["score"]) for item in theirs if item["score"] >= 0.5}
            assert {item["label"]: item["score"] for item in answer["sort"]} == found


def test_mean_pooling_fits_where_the_class_has_it(tmp_path):
    tokenizer = wordpiece_tokenizer()
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4, "vocab_size": len(tokenizer)}
    save(EuroBertConfig(**SIZES | ids, num_key_value_heads=2), tokenizer, tmp_path / "encoder")
    for pooling in ("mean", "cls"):
        spec = {"type": "sequence_classification", "labels": SORTS, "pooling": pooling}
        stock = stock_model(trained(tmp_path / "encoder", tmp_path / pooling, sort=spec), "sort")
        assert stock.config.classifier_pooling == {"mean": "late", "cls": "bos"}[pooling]  # late: the mean of logits


def test_an_exported_head_goes_through_another_family(tmp_path):
    tokenizer = wordpiece_tokenizer()
    config = ElectraConfig(**SIZES, embedding_size=16, vocab_size=len(tokenizer), pad_token_id=0)
    save(config, tokenizer, tmp_path / "encoder")
    spec = {"type": "sequence_classification", "labels": SORTS, "pooling": "cls"}
    assert stock_model(trained(tmp_path / "encoder", tmp_path / "model", sort=spec), "sort").num_labels == 4


def save(config, tokenizer, folder: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("family", "pooling", "num_labels", "reason"),
    [
        ("bert", "cls", 3, "BertForSequenceClassification, the stock class for this encoder, has bert.pooler.dense"),
        ("bert", "mean", 3, "has bert.pooler.dense before its last layer, which this head lacks"),
        ("roberta", "cls", 3, "has classifier.dense before its last layer, which this head lacks"),
        ("distilbert", "mean", 3, "pools by `cls` and this head by `mean`; train with `pooling: cls` to export it"),
        ("modernbert", "max", 3, "pools by `cls` and this head by `max`; train with `pooling: cls` to export it"),
        ("distilbert", "cls", 17, "at most 16 labels may fit"),
        ("distilbert", "attention", 3, "its pooling is `attention`, and stock classes of transformers support only"),
        ("distilbert", "mean_last_2", 3, "its pooling is `mean_last_2`, and stock classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_says_what_stands_between(family, pooling, num_labels, reason, encoder_folders, tmp_path):
    labels = [f"label {number}" for number in range(num_labels)]
    spec = {"type": "sequence_classification", "labels": labels, "pooling": pooling}
    trained(encoder_folders[family], tmp_path / "model", sort=spec)
    with pytest.raises(ValueError, match="`sort` cannot be exported: .*" + re.escape(reason)):
        mtl_hf.export_head(tmp_path / "model", "sort", tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


@pytest.mark.parametrize(("kind", "write"), [("token_classification", "_write_plainly"),
                                             ("sequence_classification", "_write_twice")])  # fmt: skip
def test_logits_that_differ_by_a_ten_thousandth_are_not_written(kind, write, encoder_folders, tmp_path, monkeypatch):
    spec = {"type": kind, "labels": SORTS} | ({"pooling": "cls"} if kind == "sequence_classification" else {})
    trained(encoder_folders["distilbert"], tmp_path / "model", sort=spec)
    mtl_hf.export_head(tmp_path / "model", "sort", tmp_path / "stock")

    as_it_is = getattr(export, write)

    def imprecisely(behind, layer, encoder):
        done = as_it_is(behind, layer, encoder)
        behind[-1][1].weight.data *= 1 + 1e-4
        return done

    monkeypatch.setattr(export, write, imprecisely)
    with pytest.raises(ValueError, match="`sort` cannot be exported"):
        mtl_hf.export_head(tmp_path / "model", "sort", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_logits_agree_up_to_what_rounding_does():
    wanted = torch.tensor([[1.0, -20.0], [0.5, 3.0]])
    for error, same in ((1e-7, True), (1e-6, True), (1e-4, False), (1e-2, False)):
        assert export.agree(wanted * (1 + error), wanted) is same
    assert not export.agree(wanted[:1], wanted)
    assert not export.agree(wanted * float("nan"), wanted)


def test_a_head_that_answers_with_cosines_has_no_stock_class(encoder_folders, tmp_path):
    trained(encoder_folders["bert"], tmp_path / "model", alike={"type": "sentence_similarity"})
    with pytest.raises(ValueError, match="no stock class of transformers computes a sentence_similarity head"):
        mtl_hf.export_head(tmp_path / "model", "alike", tmp_path / "stock")


def test_exporting_leaves_the_model_as_it_was(encoder_folders, tmp_path):
    spec = {"type": "sequence_classification", "labels": SORTS, "pooling": "cls"}
    model = trained(encoder_folders["distilbert"], tmp_path / "model", sort=spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    stock_model(model, "sort")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config


def test_wrong_names_and_folders_are_refused(encoder_folders, tmp_path):
    trained(encoder_folders["bert"], tmp_path / "model", slots={"type": "token_classification", "labels": SORTS})
    with pytest.raises(ValueError, match=r"has no head 'slot'\. Did you mean `slots`\? It has: slots\."):
        mtl_hf.export_head(tmp_path / "model", "slot", tmp_path / "stock")
    with pytest.raises(ValueError, match=r"is not a multi-task model: its config\.json has the model_type 'bert'"):
        mtl_hf.export_head(encoder_folders["bert"], "slots", tmp_path / "stock")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    for taken in (tmp_path / "full", tmp_path / "full" / "notes.txt"):
        with pytest.raises(ValueError, match="which is not empty: choose a new folder"):
            mtl_hf.export_head(tmp_path / "model", "slots", taken)
    (tmp_path / "empty").mkdir()
    mtl_hf.export_head(tmp_path / "model", "slots", tmp_path / "empty")


def test_thresholds_are_named_because_a_stock_class_cannot_hold_them(
    encoder_folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = MultiTaskModel.from_encoder(encoder_folders["distilbert"], pooling="cls")
    model.add_head("kind", type="sequence_classification", labels=["no", "yes"], thresholds=[0.75, 0.25])
    model.save_pretrained(tmp_path / "model")
    mtl_hf.export_head(tmp_path / "model", "kind", tmp_path / "stock")
    assert (
        "kind: a stock class cannot hold thresholds, so the exported model predicts without them. Apply them to its"
        " probabilities: no 0.75, yes 0.25." in caplog.messages
    )
