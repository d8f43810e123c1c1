"""Every mistake of a user that the package knows of: one clear message, before any training and before any file."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mtl_hf
from mtl_hf.run import train
from tests.conftest import assistant_rows, save_encoder, two_source_config

ROWS = [
    {"text": f"row {number} is {'good' if number % 2 else 'bad'}", "label": "ab"[number % 2]} for number in range(20)
]


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that gets as far as the first step fails its test."""
    monkeypatch.setattr("mtl_hf.run.MultiTaskTrainer.train", lambda self, **kwargs: pytest.fail("training began"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def config(encoder_folder: str, output: Path) -> dict[str, Any]:
    """A config without a mistake: two sources in Python, four tasks."""
    return two_source_config(encoder_folder, output, num_train_epochs=1)


def files_config(encoder: str, output: Path, folder: Path, lines: list[bytes] | None = None) -> dict[str, Any]:
    """A config without a mistake, unless `lines` has one: a source read from JSON lines, one task."""
    lines = [json.dumps(row).encode() for row in ROWS] if lines is None else lines
    (folder / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return {
        "model": {"encoder": encoder},
        "sources": {"notes": {"path": "json", "data_files": {"train": str(folder / "train.jsonl")}, "text": "text"}},
        "tasks": {"mood": {"type": "sequence_classification", "source": "notes", "label": "label"}},
        "training": {"output_dir": str(output), "use_cpu": True, "precision": "fp32"},
    }


def words_config(encoder: str, output: Path, rows: list[dict[str, Any]], **task: Any) -> dict[str, Any]:
    """A config with one source of words and one tagging task on them."""
    one = datasets.Dataset.from_list(rows)
    return {
        "model": {"encoder": encoder},
        "sources": {"notes": {"dataset": {"train": one, "validation": one}, "text": "tokens"}},
        "tasks": {"tags": {"type": "token_classification", "source": "notes", "label": "tags"} | task},
        "training": {"output_dir": str(output), "use_cpu": True, "precision": "fp32"},
    }


def refuse(config: Any, output: Path, expected: str, **options: Any) -> str:
    """Assert that a run stops with a message of one paragraph and writes nothing."""
    with pytest.raises(ValueError, match=expected) as caught:
        train(config, **options)
    message = str(caught.value)
    assert "Traceback" not in message
    assert not output.exists()
    return message


def test_configs_of_these_tests_are_fine_without_the_mistakes(
    config: dict[str, Any], encoder_folder: str, output: Path, tmp_path: Path
) -> None:
    good = [{"tokens": ["in", "rome"], "tags": ["O", "B-city"]}] * 4
    for one in (config, files_config(encoder_folder, output, tmp_path), words_config(encoder_folder, output, good)):
        assert train(one, dry_run=True)["steps"] > 0
        assert not any(output.glob("*"))


# The config


def test_unknown_key(config: dict[str, Any], output: Path) -> None:
    config["tasks"]["intent"]["los_weight"] = 2.0
    refuse(config, output, r"unknown key `los_weight` in `tasks\.intent`\. Did you mean `loss_weight`\?")


def test_unknown_key_of_the_training_section(config: dict[str, Any], output: Path) -> None:
    config["training"]["learning_rte"] = 1e-4
    refuse(config, output, r"unknown key `learning_rte` in `training`\. Did you mean `learning_rate`\?")


def test_unknown_key_of_a_source(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    config = files_config(encoder_folder, output, tmp_path)
    config["sources"]["notes"]["drop_bad_row"] = True
    refuse(config, output, r"unknown key `drop_bad_row` in `sources\.notes`.*Did you mean `drop_bad_rows`\?")


def test_unknown_key_of_a_source_in_python(config: dict[str, Any], output: Path) -> None:
    config["sources"]["reviews"]["drop_bad_row"] = True
    refuse(config, output, r"`sources\.reviews\.drop_bad_row` only works with `path`.*Did you mean `drop_bad_rows`\?")


def test_duplicate_key(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    text = yaml.safe_dump(files_config(encoder_folder, output, tmp_path)) + "model:\n  encoder: other\n"
    (tmp_path / "run.yaml").write_text(text)
    number = 1 + text.splitlines().index("model:")
    refuse(tmp_path / "run.yaml", output, rf"run\.yaml: line \d+: `model` is already given in line {number}")


def test_wrong_type(config: dict[str, Any], output: Path) -> None:
    config["tasks"]["intent"]["loss_weight"] = "much"
    refuse(config, output, r"`tasks\.intent\.loss_weight` is 'much'; it should be a number")


def test_wrong_type_in_the_training_section(config: dict[str, Any], output: Path) -> None:
    config["training"]["num_train_epochs"] = "three"
    refuse(config, output, r"`training\.num_train_epochs` is 'three'; it should be a number")


@pytest.mark.parametrize("name", ["type", "to", "a.b", "loss", "score", "a b", "children"])
def test_task_name_that_cannot_be_one(config: dict[str, Any], output: Path, name: str) -> None:
    config["tasks"][name] = config["tasks"].pop("intent")
    refuse(config, output, f"a task cannot be called '{name}'")


@pytest.mark.parametrize("label", [None, float("nan"), float("inf")])
def test_validation_rows_without_a_score_are_refused_before_training(
    config: dict[str, Any], output: Path, label: float | None
) -> None:
    rows = config["sources"]["reviews"]["dataset"]
    config["sources"]["reviews"]["dataset"] = {
        "train": rows,
        "validation": rows.map(lambda row: {"stars": label}, features=rows.features),
        "test": rows,
    }
    found = "row 1 of the split 'validation' of source 'reviews' has inf"
    none = rf"`tasks\.stars`: none of the {len(rows)} validation rows of reviews has a label in the column 'stars'"
    refuse(config, output, found if label == float("inf") else none)


def test_unknown_task_type(config: dict[str, Any], output: Path) -> None:
    config["tasks"]["intent"]["type"] = "sequence_clasification"
    refuse(config, output, r"`tasks\.intent\.type` is .* Did you mean `sequence_classification`\? Valid are")


def test_a_task_without_its_label_column_is_answered_before_anything_is_loaded(
    config: dict[str, Any], output: Path
) -> None:
    del config["tasks"]["intent"]["label"]
    config["sources"]["assistant"] = {"path": "nowhere", "text": "tokens"}
    refuse(config, output, r"`tasks\.intent\.label` is missing: name the column with one label per row")


def test_task_on_an_unknown_source(config: dict[str, Any], output: Path) -> None:
    config["tasks"]["intent"]["source"] = "asistant"
    message = refuse(config, output, r"`tasks\.intent\.source` is 'asistant', which is not a source")
    assert "Did you mean `assistant`?" in message


def test_unknown_part_to_freeze(config: dict[str, Any], output: Path) -> None:
    config["training"]["freeze"] = ["heads.intnt"]
    refuse(config, output, "heads.intnt")


def test_unknown_metric(config: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    config["tasks"]["intent"]["metrics"] = ["acuracy"]
    refuse(config, output, r"`tasks\.intent\.metrics`: 'acuracy' is not built in .*Did you mean `accuracy`")


def test_encoder_that_is_not_there(config: dict[str, Any], output: Path, tmp_path: Path) -> None:
    config["model"]["encoder"] = str(tmp_path / "none")
    refuse(config, output, r"`model\.encoder` '.*none' cannot be loaded")


def test_folder_that_is_no_encoder(config: dict[str, Any], output: Path, tmp_path: Path) -> None:
    config["model"]["encoder"] = str(tmp_path)
    refuse(config, output, r"`model\.encoder` '.*': there is no model in that folder")


def test_max_length_beyond_the_encoder(config: dict[str, Any], output: Path) -> None:
    config["model"]["max_length"] = 1000
    refuse(config, output, r"`max_length` is 1000; .* supports 3 to 64 tokens")


def test_batch_smaller_than_one_row(config: dict[str, Any], output: Path) -> None:
    config["sources"]["reviews"]["batch_size"] = 0
    refuse(config, output, r"`sources\.reviews\.batch_size` is 0; it should be at least 1")


# Files


def test_missing_file(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    config = files_config(encoder_folder, output, tmp_path)
    config["sources"]["notes"]["data_files"]["train"] = str(tmp_path / "trai.jsonl")
    refuse(
        config, output, r"`sources\.notes\.data_files`: there is no file .*trai\.jsonl\. Did you mean `train\.jsonl`\?"
    )


def test_missing_config_file(output: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "none.yaml", output, r"there is no config file .*none\.yaml")


def test_malformed_json_line(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[6] = lines[6][:-3]
    message = refuse(files_config(encoder_folder, output, tmp_path, lines), output, r"train\.jsonl, line 7: not JSON")
    assert str(tmp_path) in message


def test_bytes_that_are_not_utf8(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[11] = '{"text": "schön", "label": "a"}'.encode("latin-1")
    config = files_config(encoder_folder, output, tmp_path, lines)
    message = refuse(config, output, r"train\.jsonl, line 12: not UTF-8 \(byte 0xf6 at position 13\)")
    assert "`encoding`" in message


def test_column_whose_values_change_their_kind(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[3] = b'{"text": ["a", "list"], "label": "a"}'
    refuse(
        files_config(encoder_folder, output, tmp_path, lines),
        output,
        r"`sources\.notes\.text`: the column 'text' .* holds values of several",
    )


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_file(encoder_folder: str, output: Path, tmp_path: Path, content: bytes) -> None:
    config = files_config(encoder_folder, output, tmp_path)
    (tmp_path / "train.jsonl").write_bytes(content)
    refuse(config, output, r"`sources\.notes`.*( no rows in .*train\.jsonl|split 'train' has no rows)")


def test_empty_table(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    config = files_config(encoder_folder, output, tmp_path)
    (tmp_path / "train.csv").write_text("text,label\n")
    config["sources"]["notes"] |= {"path": "csv", "data_files": {"train": str(tmp_path / "train.csv")}}
    refuse(config, output, r"`sources\.notes`: the split 'train' has no rows")


# Columns and rows


@pytest.mark.parametrize("place", ["text", "label"])
def test_column_that_does_not_exist(encoder_folder: str, output: Path, tmp_path: Path, place: str) -> None:
    config = files_config(encoder_folder, output, tmp_path)
    section = config["sources"]["notes"] if place == "text" else config["tasks"]["mood"]
    section[place] = place + "s"
    key = "sources.notes.text" if place == "text" else "tasks.mood.label"
    message = refuse(config, output, rf"`{key}` is '{place}s', but the split 'train' of source .* has no such column")
    assert f"Did you mean `{place}`?" in message
    assert "It has: text, label." in message


def test_words_and_labels_of_different_length(encoder_folder: str, output: Path) -> None:
    rows = [{"tokens": ["in", "rome"], "tags": ["O", "B-city"]}] * 3 + [{"tokens": ["in", "oslo"], "tags": ["O"]}]
    expected = r"`tasks\.tags`: row 4 of the split 'train' of source 'notes' has 2 words but 1 labels in 'tags'"
    refuse(words_config(encoder_folder, output, rows), output, expected)


@pytest.mark.parametrize("text", ["", "  ", None])
def test_empty_text(encoder_folder: str, output: Path, tmp_path: Path, text: str | None) -> None:
    rows = [dict(row) for row in ROWS]
    rows[4]["text"] = rows[8]["text"] = text
    config = files_config(encoder_folder, output, tmp_path, [json.dumps(row).encode() for row in rows])
    message = refuse(config, output, r"`sources\.notes`: 2 of 20 rows of the split 'train' have no text \(rows 5, 9\)")
    assert "`drop_bad_rows: true`" in message
    config["sources"]["notes"]["drop_bad_rows"] = True
    assert train(config, dry_run=True)["rows"] == {"notes": 16}  # 18 rows, 2 of them for validation


def test_empty_split(config: dict[str, Any], output: Path) -> None:
    rows = assistant_rows(8)
    config["sources"]["assistant"]["dataset"] = {"train": rows, "validation": rows.select([])}
    refuse(config, output, r"`sources\.assistant`: the split 'validation' has no rows")


def test_source_without_training_rows(config: dict[str, Any], output: Path) -> None:
    config["sources"]["assistant"]["dataset"] = {"test": assistant_rows(8)}
    refuse(config, output, r"`sources\.assistant`.* has no training rows; it has test")


def test_too_few_rows_to_carve_off_validation(config: dict[str, Any], output: Path) -> None:
    config["sources"]["assistant"]["dataset"] = assistant_rows(3)
    refuse(config, output, r"`sources\.assistant`: 3 training rows are too few to split off 0\.1 of them as validation")


@pytest.mark.parametrize("kind", ["sequence_classification", "regression", "multi_label_classification"])
def test_task_without_a_single_label(encoder_folder: str, output: Path, tmp_path: Path, kind: str) -> None:
    rows = [row | {"label": None} for row in ROWS]
    config = files_config(encoder_folder, output, tmp_path, [json.dumps(row).encode() for row in rows])
    config["tasks"]["mood"]["type"] = kind
    refuse(config, output, r"`tasks\.mood`: no training row has a label in the column 'label'")


@pytest.mark.parametrize(
    ("kind", "label", "expected"),
    [
        ("regression", "x", r"has 'x' in the column 'label'; regression takes one number per row"),
        ("multi_label_classification", "x", "has 'x' .* takes a list of labels per row"),
        ("sequence_classification", ["x"], r"has \['x'\] .* takes one label per row"),
        ("sequence_classification", 0.5, "has 0.5 .* takes one label per row: text, a whole number or true / false"),
    ],
)
def test_labels_of_the_wrong_kind(
    encoder_folder: str, output: Path, tmp_path: Path, kind: str, label: Any, expected: str
) -> None:
    rows = [row | {"label": label} for row in ROWS]
    config = files_config(encoder_folder, output, tmp_path, [json.dumps(row).encode() for row in rows])
    config["tasks"]["mood"]["type"] = kind
    refuse(config, output, rf"`tasks\.mood`: row 1 of the split 'train' of source 'notes' {expected}")


def test_tagging_of_strings(encoder_folder: str, output: Path, tmp_path: Path) -> None:
    config = files_config(encoder_folder, output, tmp_path)
    config["tasks"]["mood"]["type"] = "token_classification"
    refuse(config, output, r"`tasks\.mood`: token_classification needs texts that are lists of words.* is a string")


def test_inner_tag_that_continues_nothing(encoder_folder: str, output: Path) -> None:
    rows = [{"tokens": ["in", "rome"], "tags": ["O", "B-city"]}] * 3 + [
        {"tokens": ["in", "oslo"], "tags": ["O", "I-city"]}
    ]
    message = refuse(
        words_config(encoder_folder, output, rows, bio="refuse"), output,
        r"`tasks\.tags`: 1 I- tags continue no span",
    )  # fmt: skip
    assert "row 4 of the split 'train' of source 'notes', word 2: I-city" in message
    assert train(words_config(encoder_folder, output, rows), dry_run=True)["rows"] == {"notes": 4}


def test_tokenizer_without_word_alignment(output: Path, tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    # One that takes a whole text for one word: words of a list get other tokens than words of a sentence.
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "to": 2, "be": 3, "to be": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(encoder)
    rows = [{"tokens": ["in", "rome"], "tags": ["O", "B-city"]}] * 4
    refuse(
        words_config(str(encoder), output, rows),
        output,
        "tokenizer of .*choose another encoder, or use texts that are str",
    )


def test_slow_tokenizer_for_words(encoder_folder: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", property(lambda self: False))
    rows = [{"tokens": ["in", "rome"], "tags": ["O", "B-city"]}] * 4
    message = refuse(words_config(encoder_folder, output, rows), output, "cannot align words with tokens")
    assert encoder_folder in message


# The folder of the run


def test_output_folder_that_is_a_file(config: dict[str, Any], output: Path) -> None:
    output.write_text("mine")
    with pytest.raises(ValueError, match=r"`training\.output_dir`: .*output is a file"):
        train(config)
    assert output.read_text() == "mine"


def test_output_folder_that_holds_a_run(config: dict[str, Any], output: Path) -> None:
    output.mkdir()
    (output / "run.yaml").write_text("old")
    with pytest.raises(ValueError, match=r"`training\.output_dir`: .*output already contains a run.*--overwrite"):
        train(config)
    assert (output / "run.yaml").read_text() == "old"
    assert [path for path in output.rglob("*") if path.is_file()] == [output / "run.yaml"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "checkpoint-notes/mine.txt", "checkpoint-7/mine.txt"])
def test_output_folder_with_files_of_somebody_else(
    config: dict[str, Any], output: Path, name: str, overwrite: bool
) -> None:
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("mine")
    with pytest.raises(ValueError, match="contains files that a run would replace and that were not written by mtl_hf"):
        train(config, overwrite=overwrite)
    assert (output / name).read_text() == "mine"


def test_dry_run_with_overwrite_removes_nothing(config: dict[str, Any], output: Path) -> None:
    output.mkdir()
    (output / "run.yaml").write_text("old")
    train(config, dry_run=True, overwrite=True)
    assert (output / "run.yaml").read_text() == "old"


def test_mistake_with_overwrite_removes_nothing(config: dict[str, Any], output: Path) -> None:
    output.mkdir()
    (output / "run.yaml").write_text("old")
    config["tasks"]["intent"]["label"] = "none"
    with pytest.raises(ValueError, match="no such column"):
        train(config, overwrite=True)
    assert (output / "run.yaml").read_text() == "old"


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(
    config: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # these do train
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(output.parent / "cache"))
    config["training"] |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps",
                           "eval_steps": 1}  # fmt: skip
    mtl_hf.train(config)
    written = files_in(output)
    assert {"run.yaml", "metrics.json", "checkpoint-2/model.safetensors"} <= written
    foreign = {"notes.txt": "mine", "my_models/model.safetensors": "mine", "model_notes.md": "mine"}
    for name, text in foreign.items():
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text(text)
    os.utime(output / "metrics.json", (0, 0))
    with pytest.raises(ValueError, match="--overwrite"):
        mtl_hf.train(config)
    assert files_in(output) == written | set(foreign)

    seen: list[set[str]] = []
    monkeypatch.setattr("mtl_hf.run.MultiTaskTrainer.train", lambda self, **kwargs: seen.append(files_in(output)))
    mtl_hf.train(config, overwrite=True)
    # When training began, all of the old run was gone, and only that.
    assert seen == [{"run.yaml", ".run.lock", "train.log", *foreign}]
    assert all((output / name).read_text() == text for name, text in foreign.items())


def test_a_checkpoint_cannot_be_chosen_by_what_is_not_measured(config: dict[str, Any], output: Path) -> None:
    config["training"]["metric_for_best_model"] = "scor"
    refuse(config, output, r"`training\.metric_for_best_model` is 'scor'\. Did you mean `score`\?")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss_weight", 0, "loss_weight` is 0.0; it should be above 0"),
        ("loss_weight", float("nan"), r"intent`?\.loss_weight` is nan; it should be above 0 and at most"),
        ("loss_weight", float("inf"), "loss_weight` is inf; it should be above 0 and at most"),
        ("score_weight", -1, "score_weight` is -1.0; it should be at least 0"),
        ("score_weight", float("nan"), "score_weight` is nan; it should be at least 0"),
        ("learning_rate", -0.01, "learning_rate` is -0.01; it should be at least 0"),
        ("source", [], "source` is empty"),
    ],
)
def test_weights_and_sources_that_make_no_sense(
    config: dict[str, Any], output: Path, key: str, value: Any, message: str
) -> None:
    next(iter(config["tasks"].values()))[key] = value
    refuse(config, output, message)


def test_a_field_that_the_encoder_does_not_have(config: dict[str, Any], output: Path) -> None:
    config["model"]["encoder_config"] = {"hidden_dropout": 0.0}
    refuse(config, output, r"`encoder_config`: 'hidden_dropout' is not a field of BertConfig")


# All at once


def test_all_settings_are_checked_before_any_data_are_loaded_and_named_at_once(
    config: dict[str, Any], output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_hf.run.load_sources", lambda run: pytest.fail("loaded"))
    first, second = list(config["tasks"])[:2]
    config["tasks"][first]["type"] = "classification"
    del config["tasks"][second]["label"]
    config["training"]["policy"] = "round"
    config["model"] = {"encoder": str(tmp_path), "peft": {"type": "LoraConfig", "rank": 8}}
    lines = refuse(config, output, "is 'classification'").splitlines()
    begins = [f"`tasks.{first}.type`", f"`tasks.{second}.label` is missing", "`training.policy`", "`model.encoder`"]
    assert [line[: len(start)] for line, start in zip(lines, begins, strict=False)] == begins
    assert len(lines) == 5
    assert "rank" in lines[4]


def test_labels_of_all_tasks_are_checked_at_once(config: dict[str, Any], output: Path) -> None:
    for task in config["tasks"].values():
        if task["type"] in ("sequence_classification", "token_classification"):
            task["labels"] = ["O", "B-only"]
    wrong = [name for name, task in config["tasks"].items() if "labels" in task]
    assert len(wrong) > 1
    lines = refuse(config, output, "does not have").splitlines()
    assert [line.split(".labels` does not have")[0] for line in lines] == [f"`tasks.{name}" for name in wrong]
