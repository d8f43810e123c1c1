"""Starting from a model of ours: what is kept, what is refused, and the proof that a head was left alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.evaluation.report import scores_table
from mtl_hf.inference.inspect import inspect_rows
from tests.conftest import SENTENCES, TRAINING, assistant_rows, review_rows, two_source_config

STEPS = {
    "learning_rate": 1e-3,
    "max_steps": 8,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 4,
    "save_steps": 4,
}


@pytest.fixture(scope="module")
def first(encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the heads intent, slots, stars and topics, 6 steps each."""
    folder = tmp_path_factory.mktemp("first") / "reviews"
    config = two_source_config(str(encoder_folders["bert"]), folder, max_steps=12)
    config["model"]["pooling"] = "max"
    config["tasks"]["stars"]["dropout"] = 0.3
    mtl_hf.train(config)
    return folder


def again(first: Path, output_dir: Path, **training: Any) -> dict[str, Any]:
    """A run from `first`: intent goes on, sentiment is new, stars is only scored on a source without training rows."""
    split = assistant_rows().train_test_split(test_size=16, seed=0)
    reviews = review_rows()
    return {
        "model": {"from": str(first)},
        "sources": {
            "assistant": {"dataset": split, "text": "tokens"},
            "reviews": {"dataset": {"train": reviews.select(range(30)), "test": reviews.select(range(30, 40))},
                        "text": "text"},
            "ratings": {"dataset": {"test": review_rows(20)}, "text": "text"},
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "sentiment": {"type": "sequence_classification", "source": "reviews", "label": "sentiment"},
            "topics": {"type": "multi_label_classification", "source": "reviews", "label": "topics", "train": False},
            "stars": {"type": "regression", "source": "ratings", "label": "stars", "train": False},
        },
        "training": TRAINING | STEPS | {"output_dir": str(output_dir)} | training,
    }  # fmt: skip


# ---- what is kept ----


def test_matching_heads_go_on_and_others_are_left_behind(first, tmp_path, caplog):
    run = mtl_hf.run.build(again(first, tmp_path / "out"))
    saved = mtl_hf.MultiTaskModel.from_pretrained(first)
    model = run.trainer.model
    assert set(model.heads) == {"intent", "sentiment", "topics", "stars"}
    state, was = model.state_dict(), saved.state_dict()
    kept = [name for name in state if not name.startswith("heads.sentiment.")]
    assert len(kept) == len([name for name in was if not name.startswith("heads.slots.")])
    assert all(torch.equal(state[name], was[name]) for name in kept)
    for name in ("intent", "topics", "stars"):
        assert model.config.heads[name] == saved.config.heads[name]
        assert model.config.heads[name]["num_steps"] == 6
    assert model.config.heads["sentiment"]["num_steps"] == 0
    assert model.config.pooling == "max"
    assert "not kept: slots." in caplog.text
    # intent's labels stand in the order of the saved head, whatever the rows would give
    assert run.trainer.tasks["intent"].labels == saved.config.heads["intent"]["labels"]


def test_the_encoder_alone(first, tmp_path):
    for model in ({"from": str(first), "keep": "encoder"}, {"encoder": str(first)}):
        config = again(first, tmp_path / "out") | {"model": model | {"pooling": "cls", "max_length": 20}}
        config["tasks"] = {name: config["tasks"][name] for name in ("intent", "sentiment")}
        del config["sources"]["ratings"]
        built = mtl_hf.run.build(config).trainer.model
        saved = mtl_hf.MultiTaskModel.from_pretrained(first)
        assert {name: spec["num_steps"] for name, spec in built.config.heads.items()} == {"intent": 0, "sentiment": 0}
        assert all(
            torch.equal(one, other)
            for one, other in zip(built.encoder.parameters(), saved.encoder.parameters(), strict=True)
        )
        assert (built.config.pooling, built.config.max_length) == ("cls", 20)
        assert not torch.equal(built.heads["intent"].classifier.weight, saved.heads["intent"].classifier.weight)


def test_options_of_a_kept_head(first, tmp_path):
    config = again(first, tmp_path / "out")
    config["tasks"]["intent"] |= {"dropout": 0.5, "label_smoothing": 0.1}
    config["model"] |= {"dropout": 0.2, "attn_implementation": "eager", "encoder_config": {"hidden_dropout_prob": 0.4}}
    model = mtl_hf.run.build(config).trainer.model
    saved = mtl_hf.MultiTaskModel.from_pretrained(first)
    assert (model.heads["intent"].dropout.p, model.heads["intent"].label_smoothing) == (0.5, 0.1)
    assert torch.equal(model.heads["intent"].classifier.weight, saved.heads["intent"].classifier.weight)
    assert model.heads["stars"].dropout.p == 0.3  # as it was
    assert model.heads["sentiment"].dropout.p == 0.2  # of a new head
    assert model.encoder.config.hidden_dropout_prob == 0.4
    assert model.encoder.config._attn_implementation == "eager"
    assert model.heads["intent"].training == model.heads["stars"].training


def test_a_kept_head_of_similarity_has_the_loss_of_its_task(encoder_folder, tmp_path):
    model = mtl_hf.MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("alike", type="sentence_similarity", loss="ranking", temperature=0.2)
    model.save_pretrained(tmp_path / "saved")
    rows = [{"a": f"play {row}", "b": f"jazz {row}", "score": row % 2} for row in range(20)]
    for task, ranking in [({"label": "score"}, False), ({"loss": "ranking"}, True)]:
        config = {
            "model": {"from": str(tmp_path / "saved")},
            "sources": {"pairs": {"dataset": datasets.Dataset.from_list(rows), "text": ["a", "b"]}},
            "tasks": {"alike": {"type": "sentence_similarity", "source": "pairs"} | task},
            "training": TRAINING | {"output_dir": str(tmp_path / "out")},
        }
        head = mtl_hf.run.build(config).trainer.model.heads["alike"]
        assert (head.ranking, head.temperature) == (ranking, 0.2)


def test_rename(first, tmp_path):
    config = again(first, tmp_path / "out")
    config["model"]["rename"] = {"intent": "wish"}
    config["tasks"] = {"wish": config["tasks"]["intent"], "sentiment": config["tasks"]["sentiment"]}
    del config["sources"]["ratings"]
    model = mtl_hf.run.build(config).trainer.model
    saved = mtl_hf.MultiTaskModel.from_pretrained(first)
    assert torch.equal(model.heads["wish"].classifier.weight, saved.heads["intent"].classifier.weight)
    assert set(model.heads) == {"wish", "sentiment"}


def test_a_checkpoint_and_a_tokenizer_with_prefix_space(encoder_folders, tmp_path):
    """RoBERTa's tokenizer reads word lists only with a prefix space, which the saved one has kept."""
    config = two_source_config(str(encoder_folders["roberta"]), tmp_path / "first", max_steps=4, save_steps=2,
                               eval_steps=2, save_strategy="steps", eval_strategy="steps")  # fmt: skip
    mtl_hf.train(config)
    checkpoint = sorted((tmp_path / "first").glob("checkpoint-*"))[0]
    config = two_source_config("", tmp_path / "second")
    config["model"] = {"from": str(checkpoint)}
    model = mtl_hf.run.build(config).trainer.model
    whole = model.tokenizer("to be", add_special_tokens=False)["input_ids"]
    assert model.tokenizer(["to", "be"], is_split_into_words=True, add_special_tokens=False)["input_ids"] == whole
    saved = mtl_hf.MultiTaskModel.from_pretrained(checkpoint)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_head_may_know_more_labels_than_the_rows_show(first, tmp_path):
    config = again(first, tmp_path / "out")
    rows = assistant_rows().filter(lambda row: row["intent"] != "music")
    config["sources"]["assistant"]["dataset"] = rows.train_test_split(test_size=8, seed=0)
    run = mtl_hf.run.build(config)
    assert run.trainer.tasks["intent"].labels == ["booking", "music", "weather"]


# ---- what is refused ----


def _refuse(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mtl_hf.run.build(config)


def test_labels_that_differ_are_shown(first, tmp_path):
    config = again(first, tmp_path / "out")
    rows = assistant_rows().map(lambda row: {"intent": "news" if row["intent"] == "weather" else row["intent"]})
    config["sources"]["assistant"]["dataset"] = rows
    _refuse(config, r"head intent of .*reviews has other labels than the training rows\. Only the training rows have"
            r" 'news'; the head has 'booking', 'music', 'weather'\. Rename the task")  # fmt: skip
    config = again(first, tmp_path / "out")
    config["tasks"]["intent"]["labels"] = ["weather", "music", "news"]
    _refuse(config, r"other labels than `labels`\. Only the head has 'booking'\. Only `labels` have 'news'")
    config["tasks"]["intent"]["labels"] = ["weather", "music", "booking"]  # another order is that of the saved head
    assert mtl_hf.run.build(config).trainer.tasks["intent"].labels == ["booking", "music", "weather"]


def test_tags_that_only_a_repair_makes_are_no_labels_of_a_kept_head(first, tmp_path):
    rows = assistant_rows().map(lambda row: {"slots": ["I-city" if tag == "B-city" else tag for tag in row["slots"]]})
    config = again(first, tmp_path / "out")
    config["sources"]["assistant"]["dataset"] = rows
    config["tasks"] = {"slots": {"type": "token_classification", "source": "assistant", "label": "slots"}}
    for name in ("reviews", "ratings"):
        del config["sources"][name]
    assert set(mtl_hf.run.build(config).trainer.tasks["slots"].labels) == {"O", "B-city", "B-when"}
    rows = assistant_rows().map(lambda row: {"slots": ["I-town" if tag == "B-city" else tag for tag in row["slots"]]})
    config["sources"]["assistant"]["dataset"] = rows
    _refuse(config, r"Only the training rows have 'B-town'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["tasks"]["intent"].update(type="token_classification", label="slots"),
         r"`tasks\.intent` is token_classification; the head of .* is sequence_classification\. Rename the task"),
        (lambda c: c["sources"]["assistant"].update(dataset=review_rows(), text="text")
         or c["tasks"]["intent"].update(label="sentiment"),
         r"was trained on texts of form 'words'; its source has 'string'"),
        (lambda c: c["tasks"]["sentiment"].update(train=False),
         r"`tasks\.sentiment\.train` is false, but .* has no head 'sentiment'\. .*It has intent, slots, stars, topics"),
        (lambda c: c["model"].update(rename={"intnt": "intent"}),
         r"`model\.rename`: .* has no head 'intnt'\. Did you mean `intent`"),
        (lambda c: c["model"].update(rename={"slots": "tags"}), r"`model\.rename\.slots` is 'tags', which is not a t"),
        (lambda c: c["model"].update(rename={"slots": "intent"}), r"'intent', but .* has another head with that name"),
        (lambda c: c["tasks"]["topics"].update(pooling="cls"),
         r"`tasks\.topics\.pooling` is cls; the head of .* was trained with max"),
        (lambda c: c["model"].update(max_length=500), r"`max_length` is 500; .* supports 3 to 64 tokens"),
        (lambda c: c["model"].update(encoder_config={"hiden": 1}), r"`encoder_config`: 'hiden' is not a field"),
        (lambda c: c["training"].update(output_dir=c["model"]["from"]),
         r"`model\.from` is .*, which is inside `training\.output_dir`"),
        (lambda c: c["sources"]["ratings"].update(dataset={"validation": review_rows(8)}),
         r"`tasks\.stars\.train` is false, but none of its sources has a test split"),
        (lambda c: c["sources"]["reviews"].update(dataset={"test": review_rows(8)}),
         r"`sources\.reviews` has no training rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, message, first, tmp_path):
    config = again(first, tmp_path / "out")
    change(config)
    _refuse(config, message)


def test_from_something_else_is_refused(encoder_folder, first, tmp_path):
    config = again(first, tmp_path / "out")
    config["model"]["from"] = encoder_folder
    _refuse(config, r"`model\.from`: .* not a multi-task model: .*_type 'bert'\. .* encoder use `model\.encoder`")
    config["model"]["from"] = str(first.parent / "revews")
    _refuse(config, r"`model\.from`: .* there is no such folder\. Did you mean `reviews`\?")
    shutil.copytree(first, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    config["model"]["from"] = str(tmp_path / "bare")
    _refuse(config, r"`model\.from`: .*bare cannot be loaded: ")


def test_a_tokenizer_that_lists_of_words_would_change_is_refused_for_a_head_that_is_to_stay(
    encoder_folders, tmp_path, caplog
):
    config = two_source_config(str(encoder_folders["roberta"]), tmp_path / "first", max_steps=1)
    config["tasks"] = {"stars": config["tasks"]["stars"]}
    del config["sources"]["assistant"]
    mtl_hf.train(config)
    config = two_source_config("", tmp_path / "second")
    config["model"] = {"from": str(tmp_path / "first")}
    mtl_hf.run.build(config)
    assert "The head stars of " in caplog.text
    assert "a new task reads lists of words, which need a tokenizer that adds one" in caplog.text
    config["tasks"]["stars"]["train"] = False
    _refuse(config, r"`tasks\.stars\.train` is false, but the head stars of .* so its predictions would change")
    for name in ("intent", "slots"):
        del config["tasks"][name]
    del config["sources"]["assistant"]
    run = mtl_hf.run.build(config)  # lists of words are not read any more
    assert run.trainer.tasks["stars"].form == "string"


# ---- heads that are only scored ----


def logits_of(folder: Path, rows: Any, head: str) -> np.ndarray:
    """A head's logits, row by row: an independent way from that of the trainer."""
    model = mtl_hf.MultiTaskModel.from_pretrained(folder)
    with torch.no_grad():
        asked = [model(**model.tokenizer([text], return_tensors="pt"), heads=head) for text in rows["text"]]
    return np.concatenate([found.logits[head].numpy() for found in asked])


def test_with_the_encoder_frozen_the_old_heads_are_proven_unchanged(first, tmp_path, caplog):
    results = mtl_hf.train(again(first, tmp_path / "out", freeze=["encoder"]))
    assert "will drift" not in caplog.text
    assert "has not been trained" not in caplog.text  # the new head is not asked before training
    for name, rows in (("stars", 20), ("topics", 10)):
        numbers = results["tasks"][name]
        assert numbers["unchanged"] is True
        assert numbers["drift"] == {"rows": rows, "changed": 0, "logits": 0.0}
        assert numbers["before"].items() <= numbers.items()
        assert len(numbers["before"]) >= 3
    assert not {"before", "unchanged", "drift"} & results["tasks"]["sentiment"].keys()
    score = results["tasks"]["stars"]["pearson"]
    assert f"{100 * score:.2f}, unchanged, all 20 predictions, bit for bit" in caplog.text
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == results
    # and so do the saved weights say
    was, now = (mtl_hf.MultiTaskModel.from_pretrained(folder) for folder in (first, tmp_path / "out"))
    for name in ("stars", "topics"):
        old = was.heads[name].state_dict()
        assert all(torch.equal(value, old[key]) for key, value in now.heads[name].state_dict().items())
    assert not torch.equal(now.heads["intent"].classifier.weight, was.heads["intent"].classifier.weight)
    assert {name: spec["num_steps"] for name, spec in now.config.heads.items()} == {
        "intent": 10, "sentiment": 4, "stars": 6, "topics": 6,
    }  # fmt: skip
    # the score is that of the tasks that are trained
    trained = [results["tasks"][name]["accuracy"] for name in ("intent", "sentiment")]
    assert results["score"] == pytest.approx(np.mean(trained))


def test_with_the_encoder_trained_they_drift_and_the_report_says_how_far(first, tmp_path, caplog):
    results = mtl_hf.train(again(first, tmp_path / "out", max_steps=12))
    assert "The encoder is trained (embeddings to encoder.layers.2), so the predictions of the heads topics, stars" in (
        caplog.text
    )
    numbers = results["tasks"]["stars"]
    assert numbers["unchanged"] is False
    rows = review_rows(20)
    old, new = (logits_of(folder, rows, "stars") for folder in (first, tmp_path / "out"))
    assert numbers["drift"]["changed"] == 20
    assert numbers["drift"]["logits"] == pytest.approx(np.abs(new - old).max(), rel=1e-4)
    assert numbers["before"]["mse"] == pytest.approx(np.mean((old - np.array(rows["stars"])) ** 2), rel=1e-4)
    assert numbers["mse"] == pytest.approx(np.mean((new - np.array(rows["stars"])) ** 2), rel=1e-4)
    assert "CHANGED, 20 of 20 predictions, logits by at most " in caplog.text


def test_a_head_that_is_frozen_while_its_task_trains_the_encoder_is_reported_before_and_after(
    encoder_folder, tmp_path, caplog
):
    config = two_source_config(encoder_folder, tmp_path / "out", freeze=["heads.stars", "embeddings"], max_steps=8)
    results = mtl_hf.train(config)
    drift = [message for message in caplog.messages if "will drift" in message]
    assert len(drift) == 1
    assert "(encoder.layers.0 to encoder.layers.2), so the predictions of the head stars will drift" in drift[0]
    numbers = results["tasks"]["stars"]
    start = mtl_hf.run.build(two_source_config(encoder_folder, tmp_path / "fresh")).trainer.model
    now = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "out")
    assert torch.equal(start.heads["stars"].regressor.weight, now.heads["stars"].regressor.weight)
    assert now.config.heads["stars"]["num_steps"] == 4, "through it the encoder was trained"
    assert numbers["drift"]["changed"] == numbers["drift"]["rows"] > 0
    assert numbers["before"]["mse"] != numbers["mse"]
    assert f"head not trained: {numbers['before']['pearson'] * 100:.2f} \u2192 " in caplog.text
    assert not any("before" in results["tasks"][name] for name in ("intent", "slots", "topics"))


def test_only_trained_tasks_take_part_in_training(first, tmp_path):
    config = again(first, tmp_path / "out")
    config["sources"]["ratings"]["dataset"]["train"] = review_rows(16)  # which nobody trains on
    run = mtl_hf.run.build(config)
    trainer = run.trainer
    assert set(run.train_rows) == {"assistant", "reviews"}
    assert trainer.batch_sizes.keys() == {"assistant", "reviews"}
    batches = list(trainer.get_train_dataloader())
    assert {name for batch in batches for name in batch["labels"]} == {"intent", "sentiment"}
    frozen = {part.name for part in trainer.parts if part.frozen}
    assert frozen == {"heads.topics", "heads.stars"}
    assert set(run.splits["test"]["reviews"].gold) == {"sentiment", "topics"}
    assert trainer.checkpoint_facts()["settings"]["tasks"]["stars"]["train"] is False
    assert "train" not in trainer.checkpoint_facts()["settings"]["tasks"]["intent"]


def test_a_score_weight_counts_a_head_that_is_only_scored(first, tmp_path):
    config = again(first, tmp_path / "out")
    config["tasks"]["topics"]["score_weight"] = 2
    trainer = mtl_hf.run.build(config).trainer
    found = trainer.evaluate()
    expected = (
        found["eval_intent_accuracy"] + found["eval_sentiment_accuracy"] + 2 * found["eval_topics_micro_f1"]
    ) / 4
    assert found["eval_score"] == pytest.approx(expected)


@pytest.mark.parametrize("frozen", [["encoder"], []], ids=["frozen", "moving"])
def test_a_resumed_run_reports_the_same_bit_for_bit(frozen, first, tmp_path):
    mtl_hf.train(again(first, tmp_path / "whole", freeze=frozen))
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    shutil.copy(tmp_path / "whole" / "run.yaml", tmp_path / "cut")
    mtl_hf.train(again(first, tmp_path / "cut", freeze=frozen), resume=True)
    for name in ("metrics.json", "predictions.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_folder_is_evaluated_inspected_and_described(first, tmp_path, caplog):
    config = again(first, tmp_path / "out", freeze=["encoder"])
    folders = {}
    for name, source in config["sources"].items():  # files, so that the folder alone is enough
        given = source.pop("dataset")
        folders[name] = {}
        for split in given:
            folders[name][split] = str(tmp_path / f"{name}-{split}.jsonl")
            given[split].to_json(folders[name][split])
        source |= {"path": "json", "data_files": folders[name]}
    results = mtl_hf.train(config)
    for numbers in results["tasks"].values():
        for key in ("before", "unchanged", "drift"):
            numbers.pop(key, None)
    assert mtl_hf.evaluate(tmp_path / "out") == results
    scored = mtl_hf.evaluate(tmp_path / "out", data=folders["ratings"]["test"], labels={"stars": "stars"})
    assert scored["tasks"].keys() >= {"stars"}
    assert "task stars: regression" in inspect_rows(tmp_path / "out" / "run.yaml")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "further trained in another multi-task model" in card
    assert "- Started from: `reviews`: its encoder and the heads of the same tasks" in card
    assert "- Heads that were scored but not trained: topics, stars" in card
    assert str(first.parent) not in card
    assert RunConfig.load(tmp_path / "out" / "run.yaml").model.from_ == str(first)


def test_the_base_model_of_a_chain_is_that_of_its_first_run(first, tmp_path):
    from mtl_hf.hub.card import _origin

    (tmp_path / "a").mkdir()
    text = (
        "model: {encoder: me/encoder}\nsources: {s: {path: json, text: t}}\ntasks: {t: {type: regression, source: s}}\n"
    )
    (tmp_path / "a" / "run.yaml").write_text(text, encoding="utf-8")

    def origin(start: str) -> str:
        config = {"model": {"from": start}, "sources": {"s": {"path": "json", "text": "t"}},
                  "tasks": {"t": {"type": "regression", "source": "s"}}}  # fmt: skip
        return _origin(RunConfig.load(config))

    assert origin(str(tmp_path / "a")) == "me/encoder"
    assert origin("you/model@v2") == "you/model"
    assert origin("package:some/model") == "package:some/model"
    assert origin(str(tmp_path / "nothing")) == ""


def test_a_kept_head_of_masked_words_reads_any_form_of_text(encoder_folder, tmp_path):
    def config(text: str, model: dict[str, Any], output: str) -> dict[str, Any]:
        rows = assistant_rows().map(lambda row: {"sentence": " ".join(row["tokens"])})
        return {
            "model": model,
            "sources": {"plain": {"dataset": rows.train_test_split(0.2, seed=0), "text": text}},
            "tasks": {"mlm": {"type": "masked_lm", "source": "plain"}},
            "training": TRAINING | {"output_dir": str(tmp_path / output), "max_steps": 2},
        }

    mtl_hf.train(config("tokens", {"encoder": encoder_folder}, "words"))
    results = mtl_hf.train(config("sentence", {"from": str(tmp_path / "words")}, "strings"))
    assert results["tasks"]["mlm"]["perplexity"] > 1


# ---- what the encoder scored before training ----


def similar_rows(num_rows: int) -> datasets.Dataset:
    """Pairs with a score, no two of which are equal."""
    rows = [
        {"first": f"{one} {index}", "second": f"{other} {index % 3}", "score": (index * 7 % 5) / 4}
        for index, (one, other) in enumerate(
            (SENTENCES[index % 8], SENTENCES[index * 3 % 7]) for index in range(num_rows)
        )
    ]
    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_head_without_weights_is_scored_before_training_too(pooling, encoder_folder, tmp_path, monkeypatch):
    rows = similar_rows(40)
    config = {
        "model": {"encoder": encoder_folder},
        "sources": {"pairs": {"dataset": {"train": rows.select(range(16)), "validation": rows.select(range(16, 40))},
                              "text": ["first", "second"]}},
        "tasks": {"alike": {"type": "sentence_similarity", "source": "pairs", "label": "score", "pooling": pooling}},
        "training": TRAINING | STEPS | {"output_dir": str(tmp_path / "out"), "max_steps": 4},
    }  # fmt: skip
    results = mtl_hf.train(config)
    found = results["tasks"]["alike"]
    if pooling == "attention":
        assert "before" not in found
        return
    encoder = mtl_hf.MultiTaskModel.from_encoder(encoder_folder)
    first, second = (encoder.encode(list(rows.select(range(16, 40))[side]), normalize=True)
                     for side in ("first", "second"))  # fmt: skip
    cosines = (first * second).sum(-1).tolist()
    expected = np.corrcoef(cosines, rows.select(range(16, 40))["score"])[0, 1]
    assert found["before"]["pearson"] == pytest.approx(expected, abs=1e-4)
    assert found["before"]["pearson"] != found["pearson"]
    assert not {"unchanged", "drift"} & found.keys()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == results
    shown = f"{100 * found['before']['spearman']:.2f}"
    assert f"  before training       spearman{shown:>16}" in scores_table(results).splitlines()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Before training the encoder scored {shown} (spearman) on alike (validation)." in card
    # It costs a pass and changes nothing of the training.
    monkeypatch.setattr(mtl_hf.run, "score_before", lambda trainer, splits: None)
    config["training"]["output_dir"] = str(tmp_path / "plain")
    plain = mtl_hf.train(config)
    assert plain["tasks"]["alike"]["spearman"] == found["spearman"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)
