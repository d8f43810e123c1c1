"""The command line: every verb, its help, one line for an error, and how soon the package and the help are there."""

import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers

import mtl_hf.run
from mtl_hf import cli
from mtl_hf.command import parse
from mtl_hf.data.catalog import CATALOG
from tests.conftest import assistant_rows

VERBS = ("train", "evaluate", "compare", "tune", "plot", "export-head", "predict", "serve", "export", "inspect",
         "embed", "export-encoder", "merge", "push", "init", "data")  # fmt: skip
TEXTS = ["play jazz today", "will it rain in oslo"]


@pytest.fixture(scope="module")
def config(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    rows = [json.dumps(row) + "\n" for row in assistant_rows(40)]
    (folder / "train.jsonl").write_text("".join(rows[:30]), encoding="utf-8")
    (folder / "test.jsonl").write_text("".join(rows[30:]), encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(
        f"""
folder: {folder}
model: {{encoder: {encoder_folder}}}
sources:
  assistant:
    path: json
    data_files: {{train: "${{folder}}/train.jsonl", test: "${{folder}}/test.jsonl"}}
    text: tokens
tasks:
  intent: {{type: sequence_classification, source: assistant, label: intent}}
  slots: {{type: token_classification, source: assistant, label: slots}}
training:
  output_dir: "${{folder}}/out"
  num_train_epochs: 1
  precision: fp32
  use_cpu: true
  disable_tqdm: true
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def folder(config: Path) -> Path:
    """A trained run."""
    torch.manual_seed(0)
    datasets.disable_progress_bars()
    cli.main(["train", str(config)])
    return config.parent / "out"


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call `mtl-hf` and return what it wrote to standard output."""

    def call(*argv: object) -> str:
        capsys.readouterr()
        cli.main([str(part) for part in argv])
        return capsys.readouterr().out

    return call


def refusal(*argv: object) -> str:
    """Call `mtl-hf` with something wrong and return the one line that it stops with."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(part) for part in argv])
    assert isinstance(stopped.value.code, str), "sys.exit(text): the text to standard error, exit code 1"
    assert stopped.value.code.startswith("mtl-hf: ")
    assert "\n" not in stopped.value.code
    return stopped.value.code


# ---- the verbs ----


def test_train_with_overrides_scores_and_saves(config, tmp_path, caplog, out):
    caplog.set_level(logging.INFO, "mtl_hf")
    out("train", config, f"training.output_dir={tmp_path / 'own'}", "training.learning_rate=2e-3")
    assert (tmp_path / "own" / "metrics.json").is_file()
    assert "heads.intent" in caplog.text
    assert " 0.002 " in caplog.text
    assert f"Written to {tmp_path / 'own'}" in caplog.text


def test_train_dry_run_stops_before_the_first_step(config, tmp_path, caplog, out):
    caplog.set_level(logging.INFO, "mtl_hf")
    out("train", config, "--dry-run", f"training.output_dir={tmp_path / 'own'}")  # overrides also after flags
    assert "4 optimiser steps." in caplog.text  # 27 rows, batches of 8
    assert not (tmp_path / "own").exists()


def test_train_refuses_a_folder_with_a_run_and_overwrites_it_when_told_to(config, folder, tmp_path, out):
    assert "--overwrite" in refusal("train", config)
    own = f"training.output_dir={tmp_path / 'own'}"
    out("train", config, own)
    assert "--overwrite" in refusal("train", config, own)
    out("train", config, own, "--overwrite")


def test_train_goes_on_with_resume(config, tmp_path, caplog, out):
    caplog.set_level(logging.INFO, "mtl_hf")
    own = f"training.output_dir={tmp_path / 'own'}"
    out("train", config, own, "--resume")
    text = f"There is no complete checkpoint in {tmp_path / 'own'} yet: training starts from the beginning."
    assert text in caplog.text
    written = (tmp_path / "own" / "model.safetensors").read_bytes()
    out("train", config, own, "--resume")
    assert f"Resuming from {tmp_path / 'own' / 'checkpoint-4'}." in caplog.text
    assert (tmp_path / "own" / "model.safetensors").read_bytes() == written
    over = "at step 4: no step is left. To train its model for longer, start a new run with `model: {from: "
    assert f"{over}{tmp_path / 'own'}}}`" in caplog.text
    log = (tmp_path / "own" / "train.log").read_text(encoding="utf-8")
    assert [log.count(text) for text in ("World size 1", "starts from the beginning", "no step is left")] == [2, 1, 1]
    with pytest.raises(SystemExit, match=r"other settings(.|\n)*training\.seed: 42 in the checkpoint, 7 now"):
        out("train", config, own, "--resume", "training.seed=7")
    assert "cannot be combined" in refusal("train", config, own, "--resume", "--overwrite")
    assert "`--resume`" in refusal("train", config, own, "--overwrite", "training.resume_from_checkpoint=x")


def test_run_multitask_is_the_verb_train(config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mtl_hf")
    mtl_hf.run.main([str(config), f"training.output_dir={tmp_path / 'own'}", "--dry-run"])
    assert "4 optimiser steps." in caplog.text


def test_evaluate_gives_the_numbers_of_the_run_again(folder, tmp_path, out):
    shown = out("evaluate", folder, "--to", tmp_path / "again", "--batch-size", 3)
    results, again = (json.loads((place / "metrics.json").read_text()) for place in (folder, tmp_path / "again"))
    assert again["rows"] == {"assistant": 10}
    assert again["tasks"]["intent"]["accuracy"] == results["tasks"]["intent"]["accuracy"]
    assert again["tasks"]["slots"]["f1"] == results["tasks"]["slots"]["f1"]
    assert len((tmp_path / "again" / "predictions.jsonl").read_text().splitlines()) == 10
    assert shown.startswith("task ")
    assert "\nintent " in shown
    assert shown.endswith("(test rows: assistant 10)\n")


def test_evaluate_scores_another_split_of_a_checkpoint_on_other_data(folder, tmp_path, out):
    (checkpoint,) = folder.glob("checkpoint-*")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in assistant_rows(5)), encoding="utf-8")
    out("evaluate", checkpoint, "--split", "validation", "--to", tmp_path / "a")
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["split"] == "validation"
    out("evaluate", checkpoint, f"sources.assistant.data_files.test={other}", "--to", tmp_path / "b")
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["rows"] == {"assistant": 5}


def test_evaluate_tells_models_from_overrides_and_compares_them(folder, tmp_path, out):
    (checkpoint,) = folder.glob("checkpoint-*")
    other = tmp_path / "lr=1e-3"  # a model with a path is one, whatever is in its name
    shutil.copytree(folder, other)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in assistant_rows(7)), encoding="utf-8")
    shown = out(
        "evaluate", folder, f"sources.assistant.data_files.test={rows}", checkpoint, other, "--to", tmp_path / "to"
    ).splitlines()
    assert "lr=1e-3" in shown[0]
    assert shown[-1].startswith("(test rows: assistant 7;")
    results = json.loads((tmp_path / "to" / "comparison.json").read_text(encoding="utf-8"))
    assert list(results["models"]) == [str(folder), str(checkpoint), str(other)]
    assert (tmp_path / "to" / "comparison.csv").is_file()


def test_evaluate_scores_a_file_of_rows(folder, tmp_path, out):
    rows = tmp_path / "rows.csv"
    rows.write_text("said,topic\nplay jazz,music\nbook a table,booking\n", encoding="utf-8")
    arguments = ["--data", rows, "--text", "said", "--label", "intent=topic", "--to", tmp_path / "to"]
    assert out("evaluate", folder, *arguments).endswith(f"(rows of {rows}: data 2)\n")
    assert json.loads((tmp_path / "to" / "metrics.json").read_text())["tasks"].keys() == {"intent"}


def test_export_head_writes_what_stock_classes_load(folder, tmp_path, caplog, out):
    caplog.set_level(logging.INFO, "mtl_hf")
    out("export-head", folder, "slots", "--to", tmp_path / "slots")
    assert f"slots: written to {tmp_path / 'slots'}." in caplog.text
    stock = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "slots")
    assert (
        list(stock.config.id2label.values())
        == mtl_hf.MultiTaskModel.from_pretrained(folder).config.heads["slots"]["labels"]
    )


def read_answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_predict_answers_arguments_a_file_and_standard_input_alike(folder, tmp_path, out, monkeypatch):
    from_arguments = read_answers(out("predict", folder, *TEXTS))
    assert [line["text"] for line in from_arguments] == TEXTS
    for line in from_arguments:
        assert line.keys() == {"text", "intent", "slots"}
        assert line["intent"]["label"] in ("music", "booking", "weather")
        assert 0 < line["intent"]["score"] <= 1
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    assert read_answers(out("predict", folder, "--file", tmp_path / "texts.txt")) == from_arguments
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    assert read_answers(out("predict", folder)) == from_arguments


def test_predict_asks_only_the_heads_that_are_named(folder, out):
    (answer,) = read_answers(out("predict", folder, TEXTS[0], "--heads", "slots"))
    assert answer.keys() == {"text", "slots"}


def test_predict_reads_rows_and_keeps_their_order_and_ids(folder, tmp_path, out, caplog):
    rows = [{"id": number, "tokens": text.split(), "text": text} for number, text in enumerate(TEXTS * 40)]
    expected = read_answers(out("predict", folder, *TEXTS))
    frame = datasets.Dataset.from_list(rows)
    frame.to_json(tmp_path / "rows.jsonl")
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.select_columns(["id", "text"]).to_csv(tmp_path / "rows.csv", index=False)
    for name, column, argv in [
        ("rows.jsonl", "tokens", []),  # what the model was trained on
        ("rows.parquet", "tokens", []),
        ("rows.csv", "text", []),
        ("rows.jsonl", "text", ["--text", "text"]),
    ]:
        caplog.clear()
        to = tmp_path / "new" / "answers.jsonl"
        options = ["--to", to, "--overwrite", "--batch-size", 4]
        assert out("predict", folder, "--file", tmp_path / name, *options, *argv) == ""
        answers = read_answers(to.read_text(encoding="utf-8"))
        assert [answer["id"] for answer in answers] == list(range(80))
        assert [answer["text"] for answer in answers] == [row[column] for row in rows]
        assert [answer["intent"]["label"] for answer in answers] == [one["intent"]["label"] for one in expected] * 40
        assert "80 texts in " in caplog.text
        assert f"texts/s. Written to {to}." in caplog.text


def test_predict_reads_texts_of_digits_and_ids_as_they_are_written(folder, tmp_path, out):
    (tmp_path / "rows.csv").write_text("id;text\n007;1\n008;2\n", encoding="utf-8")
    answers = read_answers(out("predict", folder, "--file", tmp_path / "rows.csv"))
    assert [(answer["id"], answer["text"]) for answer in answers] == [("007", "1"), ("008", "2")]


def test_predict_answers_rows_without_a_text_as_empty_ones_and_says_so(folder, tmp_path, out, caplog):
    (tmp_path / "rows.csv").write_text("id,sentence\na,play jazz\nb,\n", encoding="utf-8")
    answers = read_answers(out("predict", folder, "--file", tmp_path / "rows.csv"))
    assert [(answer["id"], answer["text"], answer["slots"]) for answer in answers][1] == ("b", "", [])
    assert "rows.csv: 1 texts in sentence are missing; they are treated as empty texts." in caplog.text


def test_predict_reads_json_lines_from_standard_input_if_told_the_column(folder, out, monkeypatch):
    lines = b'{"q": "play jazz today", "id": 7}\n{"q": ["will", "it", "\\ud83d"]}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    first, second = read_answers(out("predict", folder, "--text", "q"))
    assert (first["id"], first["text"]) == (7, TEXTS[0])
    assert (list(second), second["text"]) == (["text", "intent", "slots"], ["will", "it", "\ufffd"])


def test_predict_takes_null_for_empty_everywhere_and_capitals_for_an_ending(folder, tmp_path, out, monkeypatch, caplog):
    lines = b'{"q": null}\n{"q": ["play", null, "today"]}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    piped = read_answers(out("predict", folder, "--text", "q"))
    assert [line["text"] for line in piped] == ["", ["play", "", "today"]]
    assert "standard input: 1 texts in q are missing" in caplog.text
    (tmp_path / "rows.JSONL").write_bytes(lines.splitlines()[1] + b'\n{"q": null}\n')
    of_file = read_answers(out("predict", folder, "--file", tmp_path / "rows.JSONL", "--text", "q"))
    assert [line["text"] for line in of_file] == [["play", "", "today"], []]
    assert of_file[0]["slots"] == piped[1]["slots"]


def test_a_tab_makes_a_pair_only_for_heads_that_read_pairs(folder, tmp_path, out):
    (answer,) = read_answers(out("predict", folder, "play jazz\ttoday"))
    assert answer["text"] == "play jazz\ttoday"
    assert {"intent", "slots"} < answer.keys()
    model = mtl_hf.MultiTaskModel.from_pretrained(folder)
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    model.add_head("mlm", type="masked_lm")
    model.save_pretrained(tmp_path / "pairs")
    (answer,) = read_answers(out("predict", tmp_path / "pairs", "play jazz\ttoday"))
    assert answer["text"] == ["play jazz", "today"]
    # a head that answers no text does not ask for a column
    (tmp_path / "rows.csv").write_text("utterance\nplay jazz\n", encoding="utf-8")
    argv = ("--file", tmp_path / "rows.csv", "--text", "utterance", "--heads", "intent", "mlm")
    assert "predicts masked tokens" in refusal("predict", tmp_path / "pairs", *argv)


def test_a_mark_of_byte_order_is_no_part_of_the_first_text(folder, tmp_path, out):
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbfplay jazz\n")
    (answer,) = read_answers(out("predict", folder, "--file", tmp_path / "texts.txt"))
    assert answer["text"] == "play jazz"
    assert out("embed", folder, "--file", tmp_path / "texts.txt").rstrip().endswith("  play jazz")


def test_predict_answers_labels_and_embeddings_as_asked(folder, out):
    (answer,) = read_answers(out("predict", folder, TEXTS[0], "--top-k", "all", "--embeddings"))
    assert {one["label"] for one in answer["intent"]} == {"music", "booking", "weather"}
    assert len(answer["embedding"]) == 32
    (two,) = read_answers(out("predict", folder, TEXTS[0], "--top-k", 2, "--heads", "intent"))
    assert [one["label"] for one in two["intent"]] == [one["label"] for one in answer["intent"][:2]]


@pytest.mark.usefixtures("processes")
def test_predict_answers_while_standard_input_is_still_open(folder):
    command = [sys.executable, "-m", "mtl_hf", "predict", str(folder), "--batch-size", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        for text in TEXTS:
            running.stdin.write(text + "\n")
            running.stdin.flush()
            assert json.loads(running.stdout.readline())["text"] == text
        running.stdin.close()
        assert running.wait(60) == 0


def test_inspect_shows_words_tokens_and_the_label_of_each_word(config, out):
    shown = out("inspect", config, "--rows", 2)
    assert "task intent: sequence_classification, labels: booking, music, weather" in shown
    assert "source assistant: train 27, validation 3, test 10 rows, text: words" in shown
    assert shown.count("  row ") == 2
    first = next(row for row in assistant_rows(40))
    for word, tag in zip(first["tokens"], first["slots"], strict=True):
        assert any(line.split()[:1] == [word] and line.split()[-1] == tag for line in shown.splitlines()), word
    assert "[CLS]" in shown
    assert out("inspect", config, "--rows", 1, "--split", "test").count("  row ") == 1


def test_inspect_takes_a_run_a_checkpoint_of_it_and_a_config(config, folder, tmp_path, out, caplog):
    shown = out("inspect", config, "--rows", 2)
    (checkpoint,) = folder.glob("checkpoint-*")
    for place in (folder, checkpoint, folder / "run.yaml"):
        assert out("inspect", place, "--rows", 2) == shown
    assert out("inspect", folder, "--rows", 1, "--split", "test").count("  row ") == 1
    assert "names data outside its folder, which will be read" in caplog.text
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "run.yaml").unlink()
    assert "has no run.yaml that names its data: give a config" in refusal("inspect", copy)
    assert "there is no such folder" in refusal("inspect", folder.parent / f"{folder.name}x")
    assert "there is no config file" in refusal("inspect", "nowhere.yaml")


def test_embed_prints_shape_and_cosines_of_each_pair(folder, out):
    lines = out("embed", folder, TEXTS[0], TEXTS[1], TEXTS[0]).splitlines()
    cosines = np.array([[float(cell) for cell in line.split()[1:4]] for line in lines[1:]])
    assert np.diag(cosines).tolist() == [1, 1, 1]
    assert np.array_equal(cosines, cosines.T)
    assert cosines[0, 2] == 1 > cosines[0, 1]
    assert lines[1].endswith(TEXTS[0])


def test_embed_writes_what_the_model_encodes(folder, encoder_folder, tmp_path, out, caplog):
    caplog.set_level(logging.INFO, "mtl_hf")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    target = tmp_path / "new" / "embeddings.npy"
    options = ("--file", tmp_path / "texts.txt", "--to", target, "--normalize", "--pooling", "cls")
    assert out("embed", folder, *options) == ""
    assert "2 texts x 32 dimensions in " in caplog.text
    assert f"Written to {target}." in caplog.text
    expected = mtl_hf.MultiTaskModel.from_pretrained(folder).encode(TEXTS, normalize=True, pooling="cls").numpy()
    np.testing.assert_allclose(np.load(target), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    assert "which exists: choose another name" in refusal("embed", folder, *options)
    out("embed", folder, *options[:-2], "--overwrite")
    assert not np.allclose(np.load(target), expected, atol=1e-3), "mean, not cls"
    assert out("embed", encoder_folder, *TEXTS).endswith(f"{TEXTS[1]}\n"), "an encoder will do too"


def test_embed_shows_and_draws_the_samples(encoder_folder, tmp_path, out):
    assert "A cat is asleep" in out("embed", encoder_folder, "--samples").splitlines()[1]
    out("embed", encoder_folder, "--samples", "--plot", tmp_path / "s.svg", "--plot", tmp_path / "s.png")
    assert all(theme in (tmp_path / "s.svg").read_text(encoding="utf-8") for theme in ("cats", "weather"))
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_embed_reads_a_file_of_rows(encoder_folder, tmp_path, out):
    (tmp_path / "rows.csv").write_text(
        "number,utterance,kind\n1,play jazz,a\n2,it rains,b\n3,play,a\n", encoding="utf-8"
    )
    asked = ("--to", tmp_path / "rows.parquet", "--plot", tmp_path / "rows.png", "--color", "kind")
    out("embed", encoder_folder, "--file", tmp_path / "rows.csv", *asked)
    assert datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet")).column_names[-1] == "embedding"
    assert (tmp_path / "rows.png").is_file()


def test_export_encoder_writes_an_encoder(folder, tmp_path, out):
    out("export-encoder", folder, "--to", tmp_path / "encoder", "--normalize")
    assert len(json.loads((tmp_path / "encoder" / "modules.json").read_text(encoding="utf-8"))) == 3
    assert out("embed", tmp_path / "encoder", *TEXTS) == out("embed", folder, *TEXTS)


def test_data_without_names_lists_the_catalog_with_licences(out):
    lines = out("data").splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOG)
    assert all(line.endswith(data_set.license) for line, data_set in zip(lines, CATALOG.values(), strict=True))


# ---- help and errors ----


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: mtl-hf {verb} ")
    if verb == "train":
        for field in ("layerwise_lr_decay", "loss_weight", "data_files", "encoder_config", "--dry-run", "--overwrite"):
            assert field in shown


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {verb}" in shown for verb in VERBS)


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"mtl_hf {mtl_hf.__version__}\n")


@pytest.mark.parametrize(
    ("verb", "needed"), [("train", "config"), ("compare", "config"), ("tune", "config"), ("predict", "model")]
)
def test_only_what_has_to_be_given_is_called_required(verb, needed, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb])
    assert capsys.readouterr().err.endswith(f"the following arguments are required: {needed}\n")


def test_an_unknown_verb_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["trian"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert all(f"'{verb}'" in said for verb in VERBS)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["train", "nowhere.yaml"], "there is no config file nowhere.yaml"),
        (["train", "{config}", "training.output_dir=x", "training.lerning_rate=1"], "Did you mean `learning_rate`?"),
        (["train", "{config}", "tasks.intent.source=asistant", "--dry-run"], "Did you mean `assistant`?"),
        (["train", "{config}", "just-text"], "'just-text' is not an override"),
        (["train", "{config}", "training.output_dir=x", "model.encoder=/nowhere/at/all"], "`model.encoder`"),
        (["evaluate", "/nowhere"], "/nowhere is not a saved model: there is no such folder."),
        (["evaluate", "a.b=c"], "a.b=c: these are changes, and there is no model to score"),
        (["evaluate", "{folder}", "{folder}"], "twice"),
        (
            ["evaluate", "{folder}", "--data", "rows.csv", "--label", "intent"],
            "`--label` is 'intent'; it is HEAD=COLUMN",
        ),
        (["evaluate", "{folder}", "--data", "/nowhere/rows.csv"], "there is no file /nowhere/rows.csv."),
        (["export-head", "{folder}", "slot", "--to", "x"], "Did you mean `slots`?"),
        (["export-head", "{folder}", "intent", "--to", "x"], "has bert.pooler.dense before its last layer"),
        (["evaluate", "{folder}", "--config", "nowhere.yaml"], "there is no config file nowhere.yaml"),
        (["predict", "/nowhere/at/all", "text"], "/nowhere/at/all is not a saved model: there is no such folder."),
        (["predict", "{folder}", "text", "--heads", "intnt"], "`heads` has"),
        (["predict", "{folder}", "text", "--file", "texts.txt"], "not both"),
        (["predict", "{folder}", "--file", "/nowhere.txt"], "/nowhere.txt"),
        (["predict", "{folder}", "text", "--text", "q"], "`--text q`: the command line has lines of text"),
        (["predict", "{folder}", "--file", "{config}", "--to", "{config}"], "which is also the input file"),
        (["predict", "{folder}", "--file", "{rows}", "--text", "toks"], "Did you mean `tokens`?"),
        (["predict", "{folder}", "--file", "{rows}", "--text", "stars"], "the column 'stars' holds"),
        (["predict", "{folder}", "text", "--top-k", "0"], "`top_k` is 0; it should be at least 1"),
        (["serve", "{folder}", "--max-queue", "1"], "`--max-queue` is 1; it should be at least `--max-sentences`"),
        (["inspect", "nowhere.yaml"], "there is no config file nowhere.yaml"),
        (["embed", "{folder}", "text", "--to", "embeddings.csv"], "its ending should be .parquet or .npy"),
        (["embed", "{folder}", "text", "--plot", "embeddings"], "its ending should be .png or .svg"),
        (["embed", "{folder}", *"abcd", "--color", "kind"], "`--color` only applies to a plot: add `--plot FILE`"),
        (["embed", "{folder}", *"abcd", "--plot", "x.png", "--color", "kind"], "`--color kind`: there is no such"),
        (["embed", "{folder}", *"ab", "--plot", "x.png"], "there are 2 texts to embed, and a plot needs at least 3"),
        (["embed", "{folder}", "text", "--samples"], "give only one of: texts, `--file`, `--samples`"),
        (["embed", "{folder}", *("text" for _ in range(31))], "31 texts are too many for a table"),
        (["embed", "{folder}", "text", "--pooling", "middle"], "`pooling` is 'middle'"),
        (["embed", "{folder}", "--file", "/nowhere/rows.csv"], "there is no file /nowhere/rows.csv."),
        (["embed", "{folder}", "--file", "{conll}"], "rows.conll ends in '.conll'; files of rows end in .jsonl"),
        (["predict", "{folder}", "--file", "{conll}"], "rows.conll is a CoNLL file, but its columns were not"),
        (["evaluate", "{folder}", "--data", "{conll}"], "rows.conll is a CoNLL file, but its columns were not"),
        (["export-encoder", "/nowhere", "--to", "x"], "/nowhere is not a saved model: there is no such folder."),
        (["push", "/nowhere", "ada/model"], "/nowhere is not a saved model: there is no such folder."),
        (["predict", "{config}", "text"], "The model that a config trains is in its `output_dir`"),
        (["evaluate", "{config}"], "is a file, and a model is a folder"),
        (["push", "{config}", "ada/model"], "is a file, and a model is a folder"),
        (["predict", "{parent}", "text"], "it has no config.json. These folders in it have one: out"),
        (["evaluate", "{parent}"], "it has no config.json. These folders in it have one: out"),
        (["push", "{folder}", "a/b/c"], "`repo` is 'a/b/c'"),
        (["data", "snip"], "snips"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_one_line(argv, expected, config, folder):
    places = {"{config}": config, "{folder}": folder, "{parent}": folder.parent, "{rows}": config.parent / "rows.jsonl"}
    places["{conll}"] = config.parent / "rows.conll"
    places["{conll}"].write_text("play O\n", encoding="utf-8")
    places["{rows}"].write_text('{"tokens": ["play"], "stars": 3}\n', encoding="utf-8")
    assert expected in refusal(*(places.get(part, part) for part in argv))


def test_a_file_that_is_not_utf8_is_refused_with_its_line(folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"good\nb\xe4d\n")
    assert "texts.txt, line 2: not UTF-8" in refusal("predict", folder, "--file", tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("lines", "argv", "expected"),
    [
        (b"good\nb\xe4d\n", [], "standard input, line 2: not UTF-8"),
        (b'{"q": "a"}\n{"q": \n', ["--text", "q"], "standard input, line 2: not JSON"),
        (b'{"q": "a"}\n{"p": "b"}\n', ["--text", "q"], "standard input, line 2: no object with q"),
        (b'{"q": 3}\n', ["--text", "q"], "text 1 is 3; it should be a string"),
    ],
)
def test_a_wrong_line_of_standard_input_is_named(lines, argv, expected, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert expected in refusal("predict", folder, *argv)


def test_a_loss_that_is_not_a_number_stops_the_command_in_one_line(config, tmp_path):
    own = f"training.output_dir={tmp_path / 'own'}"
    assert "is nan in step 3: training stops" in refusal(
        "train", config, own, "training.learning_rate=1000", "training.weight_decay=1000"
    )
    assert not list((tmp_path / "own").glob("checkpoint-*"))


def test_the_command_ends_with_code_1_one_line_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "mtl_hf", "inspect", "nowhere.yaml"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr == "mtl-hf: there is no config file nowhere.yaml.\n"
    assert done.stdout == ""


def test_every_file_of_the_command_line_is_a_verb_of_the_help() -> None:
    files = {path.stem.replace("_", "-") for path in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert files == set(VERBS)


# ---- how soon ----


@pytest.mark.parametrize(
    ("statement", "most"),
    [("import mtl_hf", 15), ("from mtl_hf import cli; atexit.register(print_new); cli.main(['--help'])", 150)],
    ids=["import", "help"],
)
def test_an_import_and_the_help_load_few_modules_and_none_that_is_heavy(statement: str, most: int) -> None:
    """Which is what their time depends on: numpy alone has more than a hundred, torch more than a thousand."""
    code = (
        "import atexit, sys; before = set(sys.modules)\n"
        "def print_new(): print('\\n', *sorted(set(sys.modules) - before))\n"
        f"{statement}\nprint_new()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    packages = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert "mtl_hf" in packages
    assert {name for name in packages if "cython" not in name} <= {"mtl_hf", "yaml", "_yaml"}
    assert len(loaded) <= most


@pytest.mark.parametrize("verb", ["train", "inspect"])
def test_a_mistake_in_a_config_is_answered_before_torch_is_imported(verb, config):
    code = (
        "import sys; from mtl_hf import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, verb, str(config), "tasks.intent.sorce=assistant"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "set()\n")
    assert "unknown key `sorce` in `tasks.intent`" in done.stderr


def test_every_public_name_resolves():
    for name in mtl_hf.__all__:
        assert getattr(mtl_hf, name) is not None, name
    assert set(mtl_hf.__all__) <= set(dir(mtl_hf))
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        mtl_hf.tarin  # noqa: B018


def test_from_two_unknown_files_to_a_model_in_two_commands(
    out: Callable[..., str], encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_hf.data.draft._default_encoder", lambda: encoder_folder)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    lines = [f"{index},the {'fine' if index % 2 else 'poor'} food of day {index},{'pos' if index % 2 else 'neg'}\n"
             for index in range(40)]  # fmt: skip
    (tmp_path / "a.csv").write_text("nr,remark,mood\n" + "".join(lines), encoding="utf-8")
    lines = [f"where is my order number {index},{index % 7 + 0.5},{index % 3}\n" for index in range(40)]
    (tmp_path / "b.csv").write_text("question,hours,desk\n" + "".join(lines), encoding="utf-8")
    printed = out("init", "a.csv", "b.csv", "--to", "c.yaml")
    assert printed.endswith("Written to c.yaml. Next: mtl-hf train c.yaml\n")
    assert (tmp_path / "c.yaml").read_text(encoding="utf-8") in printed
    cli.main(["train", "c.yaml"])
    results = json.loads((tmp_path / "outputs" / "c" / "metrics.json").read_text(encoding="utf-8"))
    assert set(results["tasks"]) == {"mood", "hours", "desk"}


def test_init_replaces_nothing_and_asks_only_on_a_terminal(
    out: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    lines = [f"the food of day {index},a long remark on {index},{'ab'[index % 2]}\n" for index in range(20)]
    rows = tmp_path / "rows.csv"
    rows.write_text("subject,message,queue\n" + "".join(lines), encoding="utf-8")
    to = tmp_path / "new" / "c.yaml"
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "`--text subject` or `--text message`" in refusal("init", rows, "--to", to)
    assert not to.exists()
    monkeypatch.setattr("sys.stdin", Terminal())
    answers = iter(["", "neither", "9", "2"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    printed = out("init", rows, "--to", to)
    assert "subject and message could all be the text" in printed
    assert "  2  message\n" in printed
    assert "    text: message\n" in to.read_text(encoding="utf-8")
    assert "which exists: choose another name" in refusal("init", rows, "--to", to, "--text", "subject")
    out("init", rows, "--to", to, "--text", "subject", "--overwrite")
    assert "    text: subject\n" in to.read_text(encoding="utf-8")


def test_init_of_a_folder_with_a_separator_and_names_in_other_scripts(
    out: Callable[..., str], encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (tmp_path / "reseñas").mkdir()
    lines = [f"comida del día {index}%{'viaje' if index % 2 else 'música'}\n" for index in range(20)]
    (tmp_path / "reseñas" / "train.csv").write_text("texto%Categoría\n" + "".join(lines), encoding="utf-8")
    (tmp_path / "reseñas" / "LEEME.md").write_text("-", encoding="utf-8")
    printed = out("init", "reseñas", "--sep", "%", "--encoder", encoder_folder, "--to", "c.yaml")
    assert "# reseñas: used are train.csv. Not used: LEEME.md (ends in '.md')." in printed
    assert "sep: '%'" in printed
    assert "  Categoría: {type: sequence_classification, source: reseñas, label: Categoría}\n" in printed
    cli.main(["train", "c.yaml", "--dry-run", "tasks.Categoría.loss_weight=2"])


def test_init_names_the_line_that_is_in_no_known_encoding(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\nfein,a\nпривет,b\n".encode("cp1251"))
    assert "rows.csv, line 3: not UTF-8" in refusal("init", tmp_path / "rows.csv", "--to", tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()


@pytest.mark.parametrize(
    ("argv", "place", "items"),
    [
        (["predict", "m", "--top-k", "3", "one", "two"], "texts", ["one", "two"]),
        (["predict", "m", "one", "--to", "a.jsonl", "two"], "texts", ["one", "two"]),
        (["embed", "m", "--normalize", "a cat", "x=y"], "texts", ["a cat", "x=y"]),
        (["evaluate", "m", "--split", "test", "n", "data=d"], "models", ["m", "n", "data=d"]),
        (["init", "a.csv", "--to", "c.yaml", "b.csv"], "files", ["a.csv", "b.csv"]),
        (["data", "--to", "d", "snips"], "names", ["snips"]),
        (["train", "c.yaml", "--dry-run", "data=d"], "overrides", ["data=d"]),
    ],
)
def test_items_of_a_list_may_come_after_flags(argv: list[str], place: str, items: list[str]) -> None:
    assert getattr(parse(cli._parser(), argv), place) == items


@pytest.mark.parametrize(
    "argv",
    [
        ["predict", "m", "text", "--nothing"],
        ["predict", "m", "--top-k", "text"],
        ["train", "c.yaml", "--dry-run", "text"],
        ["plot", "a", "text"],
    ],
)
def test_what_no_verb_takes_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(cli._parser(), argv)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "unrecognized arguments" in said or "neither a number nor `all`" in said
