"""End to end: a config is trained, scored, saved, loaded again, scored again and asked about raw text."""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

import mtl_hf
from mtl_hf.modeling.tags import bio_spans
from mtl_hf.run import train
from mtl_hf.training.trainer import MultiTaskTrainer
from tests.conftest import TRAINING, assistant_rows, review_rows, two_source_config


def pair_rows(num_rows: int = 48) -> datasets.Dataset:
    """Two strings a row and whether both speak of jazz."""
    texts = ["play jazz today", "book a room", "play some jazz", "will it rain"]
    rows = []
    for index in range(num_rows):
        first, second = texts[index % 4], f"{texts[(index // 4) % 4]} {index}"
        rows.append({"first": first, "second": second, "same": "jazz" in first and "jazz" in second})
    return datasets.Dataset.from_list(rows)


def scored_rows(num_rows: int = 70) -> datasets.Dataset:
    """Pairs with a score from 0 to 5, some without one."""
    rows = pair_rows(num_rows).to_list()
    for index, row in enumerate(rows):
        row["score"] = None if index % 9 == 1 else (4.0 if row.pop("same") else 0.0) + index % 3 / 2
        row.pop("same", None)
    return datasets.Dataset.from_list(rows)


# Name → rows, text, and the task on them.
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sequence": (review_rows, "text", {"type": "sequence_classification", "label": "sentiment"}),
    "words": (assistant_rows, "tokens", {"type": "sequence_classification", "label": "intent"}),
    "multi_label": (review_rows, "text", {"type": "multi_label_classification", "label": "topics"}),
    "regression": (review_rows, "text", {"type": "regression", "label": "stars"}),
    "token": (assistant_rows, "tokens", {"type": "token_classification", "label": "slots"}),
    "pair": (pair_rows, ["first", "second"], {"type": "sequence_classification", "label": "same"}),
    "scored": (scored_rows, ["first", "second"],
               {"type": "sentence_similarity", "label": "score", "score_range": [0, 5], "pooling": "mean_last_2"}),
    "ranked": (pair_rows, ["first", "second"],
               {"type": "sentence_similarity", "loss": "ranking", "pooling": "attention", "learning_rate": 1e-3}),
}  # fmt: skip
TWO_TEXTS = ("pair", "scored", "ranked")
METRICS = {
    "sequence_classification": {
        "accuracy",
        "macro_f1",
        "micro_f1",
        "matthews",
        "cross_entropy",
        "per_label",
        "confusion",
    },
    "multi_label_classification": {"micro_f1", "macro_f1", "accuracy", "cross_entropy", "per_label"},
    "regression": {"pearson", "spearman", "mse"},
    "token_classification": {"f1", "precision", "recall", "accuracy", "per_type", "cross_entropy"},
    "sentence_similarity": {"spearman", "pearson"},
    "ranked": {"accuracy", "mrr"},
}


def write_splits(folder: Path, rows: datasets.Dataset) -> dict[str, str]:
    """Rows as JSON lines: every fifth in test, every seventh other one in validation."""
    split_of = ["test" if row % 5 == 4 else "validation" if row % 7 == 6 else "train" for row in range(len(rows))]
    files = {}
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        files[split] = str(folder / f"{split}.jsonl")
        lines = [json.dumps(row) for row, own in zip(rows, split_of, strict=True) if own == split]
        Path(files[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def write_config(folder: Path, encoder: str, cases: dict[str, Any], **training: Any) -> Path:
    """A YAML file with a source and a task for each case."""
    config = {
        "model": {"encoder": encoder},
        "sources": {},
        "tasks": {},
        "training": TRAINING | {"output_dir": str(folder / "out"), "learning_rate": 3e-3} | training,
    }
    for name, (rows, text, task) in cases.items():
        files = write_splits(folder / name, rows())
        config["sources"][name] = {"path": "json", "data_files": files, "text": text}
        config["tasks"][f"{name}_task"] = task | {"source": name}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_finite(numbers: Any) -> None:
    """Every number in a tree is one."""
    if isinstance(numbers, dict):
        for value in numbers.values():
            assert_finite(value)
    elif isinstance(numbers, float):
        assert math.isfinite(numbers)


@pytest.mark.parametrize("case", CASES)
def test_train_score_reload_score_again_and_answer_raw_text(case, encoder_folder, tmp_path):
    rows, _, task = CASES[case]
    config = write_config(tmp_path, encoder_folder, {case: CASES[case]})
    results = mtl_hf.train(config)
    folder, name = tmp_path / "out", f"{case}_task"

    # metrics.json
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == results
    assert_finite(results)
    assert results.keys() == {"split", "score", "tasks", "joint", "rows"}
    assert results["split"] == "test"
    num_rows = sum(row % 5 == 4 for row in range(len(rows())))
    assert results["rows"] == {case: num_rows}
    assert results["joint"] == {}
    numbers = results["tasks"][name]
    own = METRICS.get(case, METRICS[task["type"]])
    if case == "scored":  # a head without weights is scored before training too, by the run only
        assert numbers.pop("before").keys() == own
    raw = {"f1_raw_text"} if task["type"] == "token_classification" else set()
    assert numbers.keys() == own | raw | {"primary", "interval", "baseline"}
    assert results["score"] == numbers[numbers["primary"]]
    assert numbers["interval"][0] <= results["score"] <= numbers["interval"][1]

    # the same scores from the folder and from the checkpoint that it was made from
    model = mtl_hf.MultiTaskModel.from_pretrained(folder)
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    best = Path(state["best_model_checkpoint"])
    assert best.parent == folder
    assert mtl_hf.evaluate(folder) == results
    assert mtl_hf.evaluate(best, batch_size=3) == approximately(results)
    for scored in (folder, best):
        written = scored / "evaluation" / "test"
        assert read_lines(written / "predictions.jsonl") == approximately(read_lines(folder / "predictions.jsonl"))
        assert json.loads((written / "metrics.json").read_text(encoding="utf-8")) == approximately(results)

    if task["type"] == "sentence_similarity":
        card = (folder / "README.md").read_text(encoding="utf-8")
        unit = ", trained on scores from 0 to 5, which are a cosine of 0 and 1: a score is 5 x cosine"
        assert (
            f"Input: two texts. Output: the cosine of their embeddings, from -1 to 1{unit if case == 'scored' else ''}."
            in card
        )
        assert ("| split | rows | mean | deviation | least | most |" in card) == (case == "scored")
        assert ("without a label column" in card) == (case == "ranked")

    # raw text
    lines = read_lines(folder / "predictions.jsonl")
    assert [line["row"] for line in lines] == list(range(num_rows))
    texts = [tuple(line["text"]) if case in TWO_TEXTS else line["text"] for line in lines]
    for line, answers in zip(lines, model.predict(texts), strict=True):
        assert answers.keys() == {name}
        if name not in line["tasks"]:  # without a label
            continue
        predicted, answer = line["tasks"][name]["predicted"], answers[name]
        if task["type"] == "sequence_classification":
            assert answer["label"] == predicted
        elif task["type"] == "multi_label_classification":
            assert sorted(found["label"] for found in answer) == predicted
        elif case == "ranked":  # of a pair alone there is no rank
            assert (-1 <= answer <= 1, line["tasks"][name]["gold"]) == (True, 1.0)
        elif task["type"] in ("regression", "sentence_similarity"):
            assert answer == pytest.approx(predicted, abs=1e-4)
        else:
            spans = [(kind, " ".join(line["text"][begin:end])) for kind, begin, end in bio_spans(predicted)]
            assert [(found["type"], found["text"]) for found in answer] == spans


def approximately(tree: Any) -> Any:
    """A tree of results that another batch size may change in the last digits."""
    if isinstance(tree, dict):
        return {key: approximately(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [approximately(value) for value in tree]
    return pytest.approx(tree, abs=1e-4) if isinstance(tree, float) else tree


@pytest.mark.parametrize(("case", "wanted"), [("sequence", 0.9), ("words", 0.9), ("token", 0.8), ("pair", 0.75)])
def test_a_tiny_encoder_learns_what_can_be_learned(case, wanted, still_encoder_folder, tmp_path):
    config = write_config(tmp_path, still_encoder_folder, {case: CASES[case]}, num_train_epochs=12,
                          eval_strategy="no", save_strategy="no", load_best_model_at_end=False)  # fmt: skip
    results = mtl_hf.train(config)
    assert results["score"] >= wanted
    assert results["score"] > results["tasks"][f"{case}_task"]["baseline"]


@pytest.mark.parametrize("case", ["scored", "ranked"])
def test_similarity_is_resumed_exactly(case, encoder_folder, tmp_path):
    changes = {
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_total_limit": 9,
    }
    config = write_config(tmp_path, encoder_folder, {case: CASES[case], "token": CASES["token"]}, **changes)
    mtl_hf.train(config)
    whole = tmp_path / "out"
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    steps = sorted(int(path.name.rpartition("-")[2]) for path in cut.glob("checkpoint-*"))
    assert len(steps) > 2
    for step in steps[1:]:
        shutil.rmtree(cut / f"checkpoint-{step}")
    for name in ("metrics.json", "model.safetensors"):
        (cut / name).unlink()
    resumed = mtl_hf.train(config, [f"training.output_dir={cut}"], resume=True)
    assert resumed == json.loads((whole / "metrics.json").read_text(encoding="utf-8"))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("loss", ["cosine", "ranking"])
def test_a_tiny_encoder_learns_which_texts_belong_together(loss, still_encoder_folder, tmp_path):
    verbs, things = ["play", "book", "reserve", "will"], ["jazz", "room", "table", "rain"]
    rows = []
    for index in range(160):
        kind, other = index % 4, index // 4 % 4
        score = {} if loss == "ranking" else {"score": float(kind == other)}
        second = kind if loss == "ranking" else other
        rows.append({"first": f"{verbs[kind]} some {index}", "second": f"the {things[second]} {index}"} | score)
    task = {"type": "sentence_similarity", "loss": loss} | ({"label": "score"} if loss == "cosine" else {})
    case = (lambda: datasets.Dataset.from_list(rows), ["first", "second"], task)
    config = write_config(tmp_path, still_encoder_folder, {"pairs": case}, num_train_epochs=24,
                          eval_strategy="no", save_strategy="no", load_best_model_at_end=False)  # fmt: skip
    untrained = mtl_hf.MultiTaskModel.from_encoder(still_encoder_folder)
    mtl_hf.train(config)
    trained = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "out")

    def margin(model: mtl_hf.MultiTaskModel) -> float:
        """How much nearer a verb is to its own thing than to the nearest other one."""
        first, second = (
            model.encode([f"{word} 7" for word in words], normalize=True) for words in (verbs, things)
        )  # fmt: skip
        cosines = first @ second.T
        others = cosines.masked_fill(torch.eye(4, dtype=torch.bool), -1).max(1).values
        return (cosines.diagonal() - others).min().item()

    assert margin(trained) > 0.2 > margin(untrained)


def test_two_rows_a_process_are_needed_to_rank(encoder_folder, tmp_path):
    config = write_config(tmp_path, encoder_folder, {"ranked": CASES["ranked"]})
    with pytest.raises(
        ValueError, match=r"`sources\.ranked\.batch_size` is 1; task 'ranked_task' ranks the texts of a"
    ):
        mtl_hf.train(config, ["sources.ranked.batch_size=1"])


def test_a_dict_and_a_yaml_file_give_the_same_numbers_and_weights(encoder_folder, tmp_path):
    cases = {case: CASES[case] for case in ("words", "regression")}
    path = write_config(tmp_path, encoder_folder, cases)
    from_file = mtl_hf.train(path)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for source in config["sources"].values():
        source.pop("path")
        files = source.pop("data_files")
        source["dataset"] = datasets.DatasetDict(
            {split: datasets.Dataset.from_list(read_lines(Path(file))) for split, file in files.items()}
        )
    config["training"]["output_dir"] = str(tmp_path / "again")
    assert mtl_hf.train(config) == from_file
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_several_tasks_of_two_sources_share_one_model_and_one_score(encoder_folder, tmp_path):
    results = mtl_hf.train(two_source_config(encoder_folder, tmp_path / "out"))
    assert results["split"] == "validation"  # no source has a test split
    assert list(results["tasks"]) == ["intent", "slots", "stars", "topics"]
    assert list(results["joint"]) == ["assistant"]
    primary = [numbers[numbers["primary"]] for numbers in results["tasks"].values()]
    assert results["score"] == pytest.approx(sum(primary) / 4)
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, mtl_hf.MultiTaskModel)
    assert all(spec["num_steps"] > 0 for spec in model.config.heads.values())
    assert model.predict(["play jazz today"])[0].keys() == {"intent", "slots", "stars", "topics"}


def test_one_task_on_two_sources_is_scored_for_each_and_together(encoder_folder, tmp_path):
    files = {
        name: write_splits(tmp_path / name, review_rows(number)) for name, number in [("films", 40), ("books", 60)]
    }
    config = two_source_config(encoder_folder, tmp_path / "out")
    config["sources"] = {
        name: {"path": "json", "data_files": own, "text": "text"} for name, own in files.items()
    }  # fmt: skip
    config["tasks"] = {
        "sentiment": {"type": "sequence_classification", "source": ["films", "books"], "label": "sentiment"}
    }
    results = mtl_hf.train(config)
    assert results["rows"] == {"films": 8, "books": 12}
    numbers = results["tasks"]["sentiment"]
    assert list(numbers["per_source"]) == ["films", "books"]
    for metric in ("accuracy", "cross_entropy"):
        films, books = (numbers["per_source"][name][metric] for name in ("films", "books"))
        assert numbers[metric] == pytest.approx((8 * films + 12 * books) / 20)
    assert mtl_hf.evaluate(tmp_path / "out") == results
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "out")
    assert list(model.heads) == ["sentiment"]


def test_dry_run_says_what_would_be_trained_trains_nothing_and_writes_nothing(
    encoder_folder, tmp_path, monkeypatch, caplog
):
    config = write_config(tmp_path, encoder_folder, {"words": CASES["words"], "sequence": CASES["sequence"]})
    before = sorted(tmp_path.rglob("*.*"))

    def refuse(self: MultiTaskTrainer) -> None:
        raise AssertionError("a dry run should not train")

    monkeypatch.setattr(MultiTaskTrainer, "train", refuse)
    caplog.set_level(logging.INFO, "mtl_hf")
    found = train(config, dry_run=True)
    # 5 batches of 8 and 4 of 7: 5 whole rounds, 2 epochs.
    assert found == {"rows": {"words": 34, "sequence": 28}, "steps": 20}
    assert not (tmp_path / "out").exists()
    assert [path for path in sorted(tmp_path.rglob("*.*")) if "cache" not in path.parts] == before
    assert "heads.words_task" in caplog.text
    assert "20 optimiser steps" in caplog.text
    assert caplog.messages[-1] == "Dry run: config and data are valid. Nothing was trained or written."


def test_a_dry_run_leaves_a_folder_that_something_has_come_into_meanwhile(encoder_folder, tmp_path, monkeypatch):
    config = write_config(tmp_path, encoder_folder, {"words": CASES["words"]})

    def write_beside(self: MultiTaskTrainer) -> int:
        (tmp_path / "runs" / "another").touch()
        return 1

    monkeypatch.setattr(MultiTaskTrainer, "num_steps", write_beside)
    train(config, [f"training.output_dir={tmp_path / 'runs' / 'one'}"], dry_run=True)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["another"]


def test_bf16_trains_and_scores_in_fp32_weights(encoder_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mtl_hf")
    results = mtl_hf.train(two_source_config(encoder_folder, tmp_path / "out", precision="bf16"))
    assert "World size 1, cpu, bf16." in caplog.text
    assert_finite(results)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


def test_bf16_steps_differ_from_fp32_ones_by_rounding_only(still_encoder_folder, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        config = two_source_config(still_encoder_folder, tmp_path / precision, precision=precision)
        config["model"]["dropout"] = 0.0
        mtl_hf.train(config)
        found[precision] = load_file(tmp_path / precision / "model.safetensors")
    difference = max((found["fp32"][name] - found["bf16"][name]).abs().max().item() for name in found["fp32"])
    assert 0 < difference < 0.02


def test_a_folder_that_holds_a_run_is_kept_unless_overwrite_is_asked_for(encoder_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mtl_hf")
    config = two_source_config(encoder_folder, tmp_path / "out", num_train_epochs=1)
    mtl_hf.train(config)
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    stale = tmp_path / "out" / "checkpoint-999"
    stale.mkdir()
    saved = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"`training\.output_dir`: .*out already contains a run.*--overwrite"):
        mtl_hf.train(config | {"training": config["training"] | {"seed": 1}})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == saved
    mtl_hf.train(config | {"training": config["training"] | {"seed": 1}}, overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != saved
    log = (tmp_path / "out" / "train.log").read_text(encoding="utf-8")
    assert [log.count(text) for text in ("World size 1", "Trained in", "Written to")] == [1, 1, 1]
    assert (tmp_path / "out" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not stale.exists()


def test_a_finished_run_without_checkpoints_is_not_replaced_by_resuming(encoder_folder, tmp_path):
    config = two_source_config(encoder_folder, tmp_path / "run", max_steps=2, save_strategy="no", eval_strategy="no",
                               load_best_model_at_end=False)  # fmt: skip
    mtl_hf.train(config)
    written = (tmp_path / "run" / "model.safetensors").read_bytes()
    finished = r"is finished and has no checkpoint to continue from(.|\n)*for longer, .* `model: {from: .*run}`"
    with pytest.raises(ValueError, match=finished):
        mtl_hf.train(config, resume=True)
    with pytest.raises(ValueError, match=r"already contains a run.*for longer, .* `model: {from: .*run}`"):
        mtl_hf.train(config)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == written


def test_overwrite_leaves_what_no_run_wrote(encoder_folder, tmp_path):
    config = two_source_config(encoder_folder, tmp_path / "run", max_steps=2)
    mtl_hf.train(config)
    mtl_hf.evaluate(tmp_path / "run", config=config, split="validation")
    names = ("checkpoint-for-paper/weights", "checkpoint-paper1/weights", "evaluation/notes.md", "notes.py")
    kept = [tmp_path / "run" / name for name in names]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    mtl_hf.train(config, overwrite=True)
    assert all(path.read_text(encoding="utf-8") == "mine" for path in kept)
    assert not (tmp_path / "run" / "evaluation" / "validation").exists()


def test_an_overwriting_dry_run_removes_nothing(encoder_folder, tmp_path):
    config = two_source_config(encoder_folder, tmp_path / "out", num_train_epochs=1)
    mtl_hf.train(config)
    before = sorted(tmp_path.glob("out/**/*"))
    train(config, dry_run=True, overwrite=True)
    assert sorted(tmp_path.glob("out/**/*")) == before


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "`eval_strategy` is no"),
        ({"save_strategy": "never"}, r"`training\.save_strategy` is 'never'"),
        ({"fsdp": "full_shard"}, "FSDP was requested, but this run is on a CPU"),
        ({"learning_rates": {"heads": -1.0}}, r"`learning_rates\.heads` is -1"),
    ],
)
def test_flags_are_checked_before_data_are_loaded(training, message, encoder_folder, tmp_path, monkeypatch):
    def load_sources(run: Any) -> None:
        raise AssertionError("data were loaded")

    monkeypatch.setattr(mtl_hf.run, "load_sources", load_sources)
    with pytest.raises(ValueError, match=message):
        mtl_hf.run.build(two_source_config(encoder_folder, tmp_path, **training))


def test_scores_predictions_and_card_are_there_before_intervals_are_computed(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_source_config(encoder_folder, tmp_path)
    folder = Path(config["training"]["output_dir"])

    def fail(results: dict, *_: object) -> None:
        written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert written == results
        assert (folder / "predictions.jsonl").is_file()
        assert (folder / "README.md").is_file()
        raise FloatingPointError("no interval")

    monkeypatch.setattr("mtl_hf.run.add_intervals", fail)
    with pytest.raises(FloatingPointError, match="no interval"):
        mtl_hf.train(config, ["training.max_steps=1"])
