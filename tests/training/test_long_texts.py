"""Training with texts that are read in windows: steps, resumes, caches and answers; and new tokens in a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import mtl_hf
from mtl_hf.data.collator import Collator, EncodedRows, maskings
from mtl_hf.data.rows import trainable_rows
from mtl_hf.inference.inspect import inspect_rows
from mtl_hf.modeling.encoding import encode
from mtl_hf.modeling.head import HeadInputs
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.run import build as build_run
from tests.conftest import SENTENCES, TRAINING
from tests.training.conftest import TwoProcesses, build
from tests.training.test_equivalence import all_splits, compare
from tests.training.test_equivalence import config as equivalence_config
from tests.training.test_frozen_states import LOWER, SGD, WHOLE
from tests.training.test_frozen_states import train as train_copy

WINDOWS = {"max_length": 12, "overflow": "window", "stride": 4}
FILLER = ["it", "is", "warm", "near", "the", "river", "today", "and"]


def documents(num_rows: int = 24) -> datasets.Dataset:
    """Words with an entity at the very end, of up to 60 words, and a label for the whole text."""
    rows = []
    for index in range(num_rows):
        words = [*(FILLER * 8)[: 3 + 7 * (index % 9)], ["paris", "rome", "oslo"][index % 3]]
        tags: list[str | None] = ["B-city" if word in ("paris", "rome", "oslo") else "O" for word in words]
        if index % 5 == 4:
            tags[1] = None
        rows.append({"tokens": words, "slots": tags, "kind": "long" if len(words) > 30 else "short"})
    return datasets.Dataset.from_list(rows)


def config(encoder: str, folder: Path | str, model: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """A source of documents with two tasks."""
    rows = documents()
    return {
        "model": {"encoder": encoder} | WINDOWS | (model or {}),
        "sources": {
            "documents": {
                "dataset": {"train": rows, "validation": rows, "test": rows.select(range(10))}, "text": "tokens"
            }
        },
        "tasks": {
            "slots": {"type": "token_classification", "source": "documents", "label": "slots"},
            "kind": {"type": "sequence_classification", "source": "documents", "label": "kind"},
        },
        "training": TRAINING | {"output_dir": str(folder), "learning_rate": 1e-3} | training,
    }  # fmt: skip


# ---- batches ----


def test_each_word_of_a_document_of_5000_words_has_one_label(encoder_folder, tmp_path):
    found = config(encoder_folder, tmp_path, {"max_length": 64, "stride": 16})
    words = (FILLER * 625)[:5000]
    tags = [f"B-{number % 7}" for number in range(5000)]
    rows = datasets.Dataset.from_list(
        [{"tokens": words, "slots": tags, "kind": "long"}, {"tokens": words[:3], "slots": tags[:3], "kind": "short"}]
    )
    found["sources"]["documents"]["dataset"] = {"train": rows, "validation": rows}
    built = build(found)
    encoded = EncodedRows({"documents": built.train["documents"]})
    kinds = {name: task.type for name, task in built.tasks.items()}
    batch = Collator({"documents": kinds}, 0)(encoded.__getitems__([0, 1]))
    labels = batch["labels"]["slots"]
    assert labels.shape == batch["input_ids"].shape
    assert len(labels) == batch["num_segments"].sum() > 100
    ids = built.tasks["slots"].ids
    assert labels[labels != -100].tolist() == [ids[tag] for tag in [*tags, *tags[:3]]]
    assert batch["num_items"] == {"slots": 5003, "kind": 2}
    assert batch["num_labelled_rows"] == 4
    assert encoded.lengths()["documents"].tolist() == [
        int(batch["attention_mask"][:-1].sum()), int(batch["attention_mask"][-1].sum())
    ]  # fmt: skip


def test_rows_without_a_label_are_left_out(encoder_folder, tmp_path):
    found = config(encoder_folder, tmp_path)
    rows = documents().to_list()
    rows[8] |= {"slots": None, "kind": None}  # of several windows
    rows[9] |= {"slots": [None] * len(rows[9]["tokens"]), "kind": None}
    found["sources"]["documents"]["dataset"] = {"train": datasets.Dataset.from_list(rows), "validation": documents(4)}
    built = build(found)
    kept = trainable_rows("documents", built.train["documents"], built.tasks)
    assert len(kept) == len(rows) - 2


# ---- steps ----


def test_steps_in_float64_are_the_same_to_1e_9(still_encoder_folder, tmp_path, two_processes: TwoProcesses):
    built = build(equivalence_config(still_encoder_folder, max_length=8, overflow="window", stride=2))
    numbers = [len(row) for source in built.train.values() for row in source["segments"]]
    assert 1 < np.mean(numbers) < max(numbers)
    built.model.double()
    names = ("one", "accumulated", "two processes, accumulated")
    found = all_splits(
        built, tmp_path / "run", two_processes, names, optim="sgd", learning_rate=0.01, max_grad_norm=0.0
    )
    for name, steps in found.items():
        losses, elements, _ = compare(found["one"], steps)
        assert losses < 1e-9, name
        assert elements < 1e-9, name


@pytest.mark.parametrize("freeze", [WHOLE, LOWER], ids=["whole", "lower layers"])
def test_cached_states_of_windows_are_those_that_are_computed(freeze, still_encoder_folder, tmp_path):
    built = build(config(still_encoder_folder, tmp_path))
    plain = train_copy(built, tmp_path / "plain", freeze=freeze, **SGD)
    cached = train_copy(built, tmp_path / "cached", freeze=freeze, frozen_cache="1MB", **SGD)
    losses, elements, _ = compare(plain[:2], cached[:2])
    assert losses < 1e-6
    assert elements < 1e-6
    assert plain[2][-1] == pytest.approx(cached[2][-1], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"experts": {"num": 2, "hidden": 8}}, {}),
        ({"peft": {"type": "BottleneckConfig", "per_task": True}}, {}),
        ({}, {"gradient_aggregation": "UPGrad"}),
        ({}, {"loss_balancing": "gradnorm"}),
    ],
    ids=str,
)
def test_windows_work_with_all_that_tasks_share(model, training, encoder_folder, tmp_path):
    results = mtl_hf.train(config(encoder_folder, tmp_path / "run", model, max_steps=2, **training))
    assert set(results["tasks"]) == {"slots", "kind"}


# ---- runs ----


def test_a_run_resumes_exactly(encoder_folder, tmp_path, caplog):
    options = {"save_steps": 2, "save_strategy": "steps", "max_steps": 6, "load_best_model_at_end": False,
               "save_total_limit": 9}  # fmt: skip
    found = config(encoder_folder, tmp_path / "run", **options)
    found["tasks"]["kind"]["window_pooling"] = "attention"
    mtl_hf.train(found)
    assert "Source documents, test: 8 of 10 rows are read in several windows" in caplog.text
    assert "truncated" not in caplog.text
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-4", cut / "checkpoint-4")
    shutil.copy(tmp_path / "run" / "run.yaml", cut)
    mtl_hf.train(found, [f"training.output_dir={cut}"], resume=True)
    for name in ("metrics.json", "model.safetensors"):
        assert (cut / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    with pytest.raises(ValueError, match="stride"):
        mtl_hf.train(found, [f"training.output_dir={cut}", "model.stride=2"], resume=True)


def check_answers(found: dict[str, Any], folder: Path, results: dict[str, Any]) -> None:
    """Check that a saved model answers and scores texts as the run that trained it."""
    written = (folder / "predictions.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    model = MultiTaskModel.from_pretrained(folder).eval()
    answers = model.predict([line["text"] for line in lines], batch_size=3)
    assert any(answer["slots"] for answer in answers)
    for line, answer in zip(lines, answers, strict=True):
        assert answer["kind"]["label"] == line["tasks"]["kind"]["predicted"]
        tags = line["tasks"]["slots"]["predicted"]
        assert len(tags) == len(line["text"])  # None for words without a label
        assert len(answer["slots"]) == sum(tag is not None and tag.startswith("B-") for tag in tags)
        assert "cut" not in answer
    again = mtl_hf.evaluate(folder, config=found, to=folder.with_name("scores"))
    assert again["tasks"]["slots"]["cross_entropy"] == pytest.approx(
        results["tasks"]["slots"]["cross_entropy"], abs=1e-5
    )


def test_an_entity_after_the_limit_is_found_with_windows_or_the_text_is_marked_as_cut(encoder_folder, tmp_path):
    options = {"num_train_epochs": 16, "learning_rate": 5e-3, "head_learning_rate": 2e-2, "eval_strategy": "no",
               "save_strategy": "no", "load_best_model_at_end": False}  # fmt: skip
    long = " ".join(FILLER * 20 + ["oslo"])
    answers = {}
    for overflow in ("window", "truncate"):
        options["max_steps"] = -1 if overflow == "window" else 1
        model = {"overflow": overflow} if overflow == "window" else {"overflow": overflow, "stride": None}
        folder = tmp_path / overflow
        found = config(encoder_folder, folder, model, **options)
        results = mtl_hf.train(found)
        if overflow == "window":
            check_answers(found, folder, results)
        answers[overflow] = MultiTaskModel.from_pretrained(folder).eval().predict([long])[0]
    assert [entity["text"] for entity in answers["window"]["slots"]] == ["oslo"]
    assert "cut" not in answers["window"]
    assert answers["truncate"]["cut"] is True
    card = (tmp_path / "window" / "README.md").read_text(encoding="utf-8")
    assert "Texts longer than 12 tokens are read in windows; neighbouring windows share 4 tokens." in card


@pytest.mark.parametrize("alignment", ["last", "mean"])
def test_a_crf_on_aligned_words_reads_windows(alignment, encoder_folder, tmp_path):
    options = {"num_train_epochs": 8, "learning_rate": 5e-3, "head_learning_rate": 2e-2, "eval_strategy": "no",
               "save_strategy": "no", "load_best_model_at_end": False}  # fmt: skip
    found = config(encoder_folder, tmp_path / "run", **options)
    found["tasks"]["slots"] |= {"crf": True, "alignment": alignment, "layers": "mix"}
    results = mtl_hf.train(found)
    assert results["tasks"]["slots"]["f1_raw_text"] == results["tasks"]["slots"]["f1"]
    check_answers(found, tmp_path / "run", results)


def test_a_run_from_a_model_keeps_its_windows(encoder_folder, tmp_path):
    mtl_hf.train(config(encoder_folder, tmp_path / "first", max_steps=1))
    found = config(encoder_folder, tmp_path / "second", max_steps=1)
    found["model"] = {"from": str(tmp_path / "first")}
    mtl_hf.train(found)
    assert MultiTaskModel.from_pretrained(tmp_path / "second").config.window_stride == 4
    found["tasks"]["kind"]["window_pooling"] = "attention"
    with pytest.raises(ValueError, match=r"`tasks.kind.window_pooling` is attention; .* was trained with mean"):
        mtl_hf.train(found, [f"training.output_dir={tmp_path / 'third'}"])


def test_rows_are_inspected_in_windows(encoder_folder, tmp_path):
    shown = inspect_rows(config(encoder_folder, tmp_path), num_rows=3)
    assert shown.count("B-city") == 3 + 1  # a row each, and the labels of the task
    assert shown.count("[CLS]") > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text": ["first", "second"]},
            "`overflow: window` does not support the task 'kind', which reads texts of form",
        ),
        ({"window_pooling": "attention"}, "`tasks.kind.window_pooling` is attention, but long texts are truncated"),
    ],
)
def test_what_windows_do_not_support_is_refused_before_training(change, message, encoder_folder, tmp_path):
    rows = [{"first": text, "second": text, "kind": text[0]} for text in SENTENCES]
    found = config(encoder_folder, tmp_path / "run")
    del found["tasks"]["slots"]
    found["sources"]["documents"] = {
        "dataset": {"train": rows, "validation": rows},
        "text": change.get("text", "first"),
    }
    if "window_pooling" in change:
        found["tasks"]["kind"]["window_pooling"] = "attention"
        found["model"] = {"encoder": encoder_folder}
    for split in ("train", "validation"):
        found["sources"]["documents"]["dataset"][split] = datasets.Dataset.from_list(rows)
    with pytest.raises(ValueError, match=message):
        mtl_hf.train(found)


# ---- masked words ----


def mlm_config(encoder: str, folder: Path, **model: Any) -> dict[str, Any]:
    """Long texts whose tokens are masked."""
    found = config(encoder, folder, model, max_steps=2)
    rows = datasets.Dataset.from_dict({"text": [" ".join(row) for row in documents()["tokens"]]})
    found["sources"] = {"plain": {"dataset": {"train": rows, "validation": rows}, "text": "text"}}
    found["tasks"] = {"mlm": {"type": "masked_lm", "source": "plain", "whole_word_mask": True}}
    return found


def test_tokens_of_all_windows_are_masked(encoder_folder, tmp_path):
    built = build(mlm_config(encoder_folder, tmp_path))
    encoded = EncodedRows({"plain": built.train["plain"]}, with_labels=False, numbers=range(24))
    collator = Collator({"plain": {"mlm": "masked_lm"}}, 0, maskings(built.tasks, built.model.tokenizer))
    batch = collator(encoded.__getitems__([8, 1]))
    hidden = batch["labels"]["mlm"] != -100
    assert len(hidden) == batch["num_segments"].sum() > 3
    assert hidden.any(1).all(), "every window has a masked token"
    alone = collator(encoded.__getitems__([1]))
    number = int(batch["num_segments"][1])
    width = alone["input_ids"].shape[1]
    assert torch.equal(batch["labels"]["mlm"][-number:, :width], alone["labels"]["mlm"])
    # As of a text that fits one window.
    plain = build(mlm_config(encoder_folder, tmp_path, overflow="truncate", stride=None))
    rows = EncodedRows({"plain": plain.train["plain"]}, with_labels=False, numbers=range(24))
    truncated = collator(rows.__getitems__([0]))
    assert "num_segments" not in truncated
    assert torch.equal(collator(encoded.__getitems__([0]))["input_ids"], truncated["input_ids"])


def test_sums_over_masked_tokens_are_those_of_all_windows_of_a_row(encoder_folder):
    model = MultiTaskModel.from_encoder(encoder_folder)
    head: Any = model.add_head("mlm", type="masked_lm")
    labels = torch.full((4, 5), -100)
    labels[0, 1], labels[1, 2:4], labels[3, 0] = 7, 8, 9
    logits = torch.randn(4, len(model.tokenizer))
    by_window = head.by_row(logits, HeadInputs(labels=labels))
    by_row = head.by_row(logits, HeadInputs(labels=labels, num_segments=torch.tensor([1, 3])))
    torch.testing.assert_close(by_row, torch.stack([by_window[0], by_window[1:].sum(0)]))


def test_masked_language_modelling_trains_on_windows(encoder_folder, tmp_path):
    results = mtl_hf.train(mlm_config(encoder_folder, tmp_path / "run"))
    assert results["tasks"]["mlm"]["perplexity"] > 1


# ---- new tokens ----


@pytest.mark.parametrize("form", ["strings", "lists"])
def test_new_tokens_that_are_cut_into_words_are_warned_of(form, encoder_folder, tmp_path, caplog):
    rows = [{"text": f"play [E1] {text}", "slots": [{"start": 0, "end": 4, "label": "x"}]} for text in SENTENCES]
    if form == "lists":
        rows = [{"text": row["text"].split(), "slots": [{"start": 0, "end": 0, "label": "x"}]} for row in rows]
    data = datasets.Dataset.from_list(rows)
    build_run({
        "model": {"encoder": encoder_folder, "add_tokens": ["[E1]", "[E2]", "marker"]},
        "sources": {"own": {"dataset": {"train": data, "validation": data}, "text": "text"}},
        "tasks": {"slots": {"type": "token_classification", "source": "own", "spans": "slots"}},
        "training": TRAINING | {"output_dir": str(tmp_path / "run")},
    })  # fmt: skip
    assert (form == "strings") == ("cuts these tokens of `model.add_tokens` so that" in caplog.text)
    assert (form == "strings") == ("they are not used: [E1] (in 16 texts)." in caplog.text)


def test_new_tokens_are_trained_and_kept(encoder_folder, tmp_path, caplog):
    rows = [{"text": f"play [E1] {text} [/E1]", "kind": text[0]} for text in SENTENCES]
    data = datasets.Dataset.from_list(rows)
    found: dict[str, Any] = {
        "model": {"encoder": encoder_folder, "add_tokens": ["[E1]", "[/E1]"]},
        "sources": {"own": {"dataset": {"train": data, "validation": data}, "text": "text"}},
        "tasks": {"kind": {"type": "sequence_classification", "source": "own", "label": "kind"}},
        "training": TRAINING | {"output_dir": str(tmp_path / "run"), "max_steps": 2},
    }
    mtl_hf.train(found)
    assert "embeddings are frozen" not in caplog.text
    model = MultiTaskModel.from_pretrained(tmp_path / "run").eval()
    read = encode(model.tokenizer, [rows[0]["text"]], form="string", max_length=64)["input_ids"][0]
    assert model.tokenizer.convert_tokens_to_ids("[E1]") == read[2]
    assert "[E1]" in inspect_rows(found | {"training": found["training"] | {"output_dir": str(tmp_path / "no")}})
    torch.manual_seed(13)
    fresh = MultiTaskModel.from_encoder(encoder_folder, add_tokens=["[E1]", "[/E1]"]).get_input_embeddings().weight
    assert not torch.equal(model.get_input_embeddings().weight[-2:], fresh[-2:])
    found["model"] = {"from": str(tmp_path / "run"), "add_tokens": ["[E1]", "[E2]"]}
    mtl_hf.train(found, [f"training.output_dir={tmp_path / 'more'}", "training.freeze=[embeddings]"])
    assert "`model.add_tokens`: the embeddings are frozen" in caplog.text
    more = MultiTaskModel.from_pretrained(tmp_path / "more")
    assert torch.equal(more.get_input_embeddings().weight[:-1], model.get_input_embeddings().weight)
    assert len(more.tokenizer) == len(model.tokenizer) + 1
