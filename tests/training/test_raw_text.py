"""Tests of `mtl_hf.training.raw_text`: scores of joined texts against those of `predict` on these texts."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from torch import nn

import mtl_hf
from mtl_hf.modeling.tags import bio_spans
from mtl_hf.modeling.words import splitter, words_of
from mtl_hf.training.trainer import MultiTaskTrainer
from tests.conftest import SENTENCES, TRAINING
from tests.training.conftest import Built, TwoProcesses, build, make_trainer

RULES = {"words": ["st."], "clitics": ["'s"]}


def rows(begin: int, end: int, lacking: bool = False) -> datasets.Dataset:
    """Sentences with `st.` and `'s`; with `lacking`, some rows and words have no tag."""
    found = []
    for index in range(begin, end):
        words = [*SENTENCES[index % len(SENTENCES)].split()[: 3 + index % 4], *[["rome"], ["st.", "oslo"]][index % 2]]
        words += [["'s", "river"], ["river", "."], ["n't"], []][index % 4] + [f"w{index}"]
        tags: list[Any] = ["B-city" if word in ("rome", "st.") else "O" for word in words]
        for place, word in enumerate(words):
            if word == "oslo" and "st." in words:
                tags[place] = "I-city"
        if lacking and index % 5 == 0:
            tags = None
        elif lacking:
            tags[index % len(tags)] = None
        found.append(
            {"tokens": words, "slots": tags, "parts": [word[:1].upper() for word in words], "lang": "ab"[index % 2]}
        )
    return datasets.Dataset.from_list(found)


def config(encoder: str, *, lacking: bool = False, sources: int = 1, **tasks: str) -> dict:
    data = {
        f"source{number}": {
            "dataset": datasets.DatasetDict(train=rows(0, 24), validation=rows(100 + 7 * number, 130, lacking)),
            "text": "tokens",
        }
        for number in range(sources)
    }
    return {
        "model": {"encoder": encoder},
        "sources": data,
        "tasks": {name: {"type": kind, "source": list(data), "label": name} for name, kind in tasks.items()},
    }


def randomly_built(raw: dict, rules: dict | None) -> Built:
    """A model whose answers differ by word."""
    built = build(raw)
    for parameter in built.model.heads.parameters():
        nn.init.normal_(parameter)
    built.model.config.word_rules = rules
    return built


def answer_every_word(built: Built, tag: str) -> None:
    """Let the head of slots answer every word with a tag."""
    head = built.model.heads["slots"]
    nn.init.zeros_(head.classifier.weight)
    head.classifier.bias.data = 10.0 * nn.functional.one_hot(
        head.classifier.bias.new_tensor(built.tasks["slots"].ids[tag]).long(), len(built.tasks["slots"].labels)
    )


def character_items(words: list[str], tags: list[str | None], spans: bool) -> set[tuple]:
    _, places = words_of(words)
    if spans:
        return {(kind, places[begin][0], places[end - 1][1]) for kind, begin, end in bio_spans(tags)}
    return {(tag, *place) for tag, place in zip(tags, places, strict=True)}


def predicted_items(answer: list[dict]) -> set[tuple]:
    return {(one.get("type", one.get("label")), one["start"], one["end"]) for one in answer}


@pytest.mark.parametrize("rules", [None, {"words": ["st."]}], ids=["plain", "rules"])
@pytest.mark.parametrize("sources", [1, 2])
def test_scores_of_raw_texts_are_those_of_predict(
    encoder_folder: str, tmp_path: Path, rules: dict | None, sources: int, caplog: pytest.LogCaptureFixture
) -> None:
    raw = config(encoder_folder, sources=sources, slots="token_classification", parts="token_classification")
    built = build(raw)
    make_trainer(built, tmp_path, max_steps=40, learning_rate=5e-3).train()
    built.model.config.word_rules = rules
    caplog.set_level("INFO")
    found = make_trainer(built, tmp_path).score(built.validation, raw_texts=True)["tasks"]
    sums: dict[str, dict[str, list[int]]] = {"slots": {}, "parts": {}}
    for source, spec in raw["sources"].items():
        split = spec["dataset"]["validation"]
        answers = built.model.predict([" ".join(words) for words in split["tokens"]])
        other = sum(splitter(rules)(" ".join(words)) != words_of(words)[1] for words in split["tokens"])
        assert f"Source {source}: {other} of {len(split)} rows are split into other words" in caplog.text
        assert other
        for task, spans in (("slots", True), ("parts", False)):
            own = sums[task][source] = [0, 0, 0]
            for words, tags, answer in zip(split["tokens"], split[task], answers, strict=True):
                gold, guess = character_items(words, tags, spans), predicted_items(answer[task])
                for place, number in enumerate((len(gold & guess), len(guess), len(gold))):
                    own[place] += number
    for task, metric in (("slots", "f1_raw_text"), ("parts", "accuracy_raw_text")):

        def score(sums: list[int], spans: bool) -> float:
            right, guessed, expected = sums
            return 2 * right / (guessed + expected) if spans else right / expected

        total = [sum(column) for column in zip(*sums[task].values(), strict=True)]
        assert total[0]
        assert found[task][metric] == pytest.approx(score(total, task == "slots"), abs=1e-12)
        assert rules or found[task][metric] < found[task][metric.removesuffix("_raw_text")]
        for source, own in found[task].get("per_source", {}).items():
            assert own[metric] == pytest.approx(score(sums[task][source], task == "slots"), abs=1e-12)


def string_rows(begin: int, end: int) -> datasets.Dataset:
    """Strings with entities as spans of characters, and dots that only rules keep at their word."""
    found = []
    for index in range(begin, end):
        text = f"{SENTENCES[index % len(SENTENCES)]},  near st. oslo {index}."
        places = [text.index(city) for city in ("rome", "st. oslo") if city in text]
        spans = [{"start": place, "end": place + len("rome") * (1 + (text[place] == "s")), "label": "city"}
                 for place in places]  # fmt: skip
        found.append({"text": text, "slots": spans})
    return datasets.Dataset.from_list(found)


@pytest.mark.parametrize("mixed", [False, True], ids=["strings", "strings and lists"])
def test_strings_are_scored_as_the_model_splits_them(encoder_folder: str, tmp_path: Path, mixed: bool) -> None:
    """A model with rules, from another source or another run, splits them otherwise than they were for training."""
    strings = {split: string_rows(*numbers) for split, numbers in {"train": (0, 24), "validation": (50, 70)}.items()}
    raw: dict[str, Any] = {
        "model": {"encoder": encoder_folder},
        "sources": {"strings": {"dataset": datasets.DatasetDict(strings), "text": "text"}},
        "tasks": {"slots": {"type": "token_classification", "source": "strings", "spans": "slots"}},
    }
    if mixed:
        words = {
            split: datasets.Dataset.from_list(
                [{"text": row["text"].split(), "slots": [{"start": 1, "end": 1, "label": "city"}]} for row in rows]
            )
            for split, rows in strings.items()
        }
        raw["sources"]["lists"] = {"dataset": datasets.DatasetDict(words), "text": "text"}
        raw["tasks"]["slots"]["source"] = ["strings", "lists"]
    built = build(raw)
    answer_every_word(built, "B-city")
    plain = make_trainer(built, tmp_path).score(built.validation, raw_texts=True)["tasks"]["slots"]
    assert mixed == ("f1_raw_text" in plain)
    if mixed:
        assert plain["per_source"]["strings"]["f1_raw_text"] == plain["per_source"]["strings"]["f1"]
    built.model.config.word_rules = {"end": ["."]}
    found = make_trainer(built, tmp_path).score(built.validation, raw_texts=True)["tasks"]["slots"]
    right = guessed = expected = 0
    answers = built.model.predict(strings["validation"]["text"])
    for row, answer in zip(strings["validation"], answers, strict=True):
        gold, guess = {("city", one["start"], one["end"]) for one in row["slots"]}, predicted_items(answer["slots"])
        right, guessed, expected = right + len(gold & guess), guessed + len(guess), expected + len(gold)
    own = found["per_source"]["strings"] if mixed else found
    assert 0 < own["f1_raw_text"] == pytest.approx(2 * right / (guessed + expected), abs=1e-12)
    assert own["f1_raw_text"] != own["f1"]


def test_rows_that_are_split_alike_have_the_same_score_without_another_pass(
    encoder_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = randomly_built(
        config(encoder_folder, lacking=True, slots="token_classification", lang="sequence_classification"),
        RULES | {"words": ["st.", "n't"]},
    )
    passes, predict = [], MultiTaskTrainer.predict_source

    def counted(self: MultiTaskTrainer, *given: Any) -> None:
        passes.append(given)
        predict(self, *given)

    monkeypatch.setattr(MultiTaskTrainer, "predict_source", counted)
    found = make_trainer(built, tmp_path).score(built.validation, raw_texts=True)["tasks"]
    assert len(passes) == 1
    assert 0 < found["slots"]["f1"] == found["slots"]["f1_raw_text"]
    assert found["slots"]["primary"] == "f1"
    assert not any("raw_text" in key for key in found["lang"])


def test_words_without_a_tag_count_neither_way(encoder_folder: str, tmp_path: Path) -> None:
    """A model that answers every word with B-city: entities of unlabelled words are not wrong."""
    built = build(config(encoder_folder, lacking=True, slots="token_classification"))
    answer_every_word(built, "B-city")
    found = make_trainer(built, tmp_path).score(built.validation, raw_texts=True)["tasks"]["slots"]
    split = splitter(None)
    right = guessed = expected = 0
    for row in built.validation["source0"].texts(range(23, 30)) and rows(100, 130, lacking=True):
        if row["slots"] is None:
            continue
        text, places = words_of(row["tokens"])
        hidden = {char for tag, span in zip(row["slots"], places, strict=True) if tag is None for char in range(*span)}
        guess = {("city", *span) for span in split(text) if hidden.isdisjoint(range(*span))}
        gold = character_items(row["tokens"], row["slots"], spans=True)
        right, guessed, expected = right + len(gold & guess), guessed + len(guess), expected + len(gold)
    assert found["f1_raw_text"] == pytest.approx(2 * right / (guessed + expected), abs=1e-12)


def test_evaluations_during_training_score_words_only(encoder_folder: str, tmp_path: Path) -> None:
    built = randomly_built(config(encoder_folder, slots="token_classification"), None)
    trainer = make_trainer(built, tmp_path)
    assert not any("raw_text" in key for key in trainer.evaluate())
    assert "f1_raw_text" not in trainer.score(built.validation)["tasks"]["slots"]


def test_two_processes_score_raw_texts_as_one(encoder_folder: str, tmp_path: Path, two_processes: TwoProcesses) -> None:
    built = randomly_built(config(encoder_folder, slots="token_classification"), RULES)

    def score() -> float:
        trainer = make_trainer(built, tmp_path, per_device_eval_batch_size=4)
        return trainer.score(built.validation, raw_texts=True)["tasks"]["slots"]["f1_raw_text"]

    both = two_processes(score)
    assert both == [score()] * 2


def test_a_run_learns_how_words_are_split_and_scores_raw_texts(encoder_folder: str, tmp_path: Path) -> None:
    raw = config(encoder_folder, slots="token_classification", lang="sequence_classification")
    raw["training"] = TRAINING | {"output_dir": str(tmp_path / "run"), "learning_rate": 5e-3}
    results = mtl_hf.train(raw)
    slots = json.loads((tmp_path / "run" / "metrics.json").read_text())["tasks"]["slots"]
    assert slots["f1_raw_text"] == results["tasks"]["slots"]["f1_raw_text"] == slots["f1"]
    assert "f1_raw_text" in (tmp_path / "run" / "README.md").read_text()
    rules = json.loads((tmp_path / "run" / "config.json").read_text())["word_rules"]
    assert splitter(rules)("st. oslo") == [(0, 3), (4, 8)]
    (again,) = [mtl_hf.evaluate(tmp_path / "run", config=raw)["tasks"]["slots"]]
    assert again["f1_raw_text"] == slots["f1_raw_text"]

    # A second run replaces the rules; one without word labels keeps them.
    second = config(encoder_folder, lang="sequence_classification", slots="token_classification")
    second["model"] = {"from": str(tmp_path / "run")}
    for source in second["sources"].values():
        source["dataset"]["train"] = datasets.Dataset.from_list(
            [
                row | {"tokens": [word.replace("st.", "st") for word in row["tokens"]]}
                for row in source["dataset"]["train"]
            ]
        )
    second["training"] = raw["training"] | {"output_dir": str(tmp_path / "second"), "max_steps": 1}
    mtl_hf.train(second)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["word_rules"] != rules
    del second["tasks"]["slots"]
    second["training"] |= {"output_dir": str(tmp_path / "third")}
    mtl_hf.train(second)
    assert json.loads((tmp_path / "third" / "config.json").read_text())["word_rules"] == rules
