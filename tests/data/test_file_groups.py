"""Tests of `mtl_hf.data.file_groups`: which files are splits of one source, by their names."""

import pytest

from mtl_hf.data.file_groups import group_files


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
    assert group_files(["/d/a_train.csv.gz", "/d/a_test.csv.gz", "/d/v1.2.csv"]) == {
        "a": {"train": ["/d/a_train.csv.gz"], "test": ["/d/a_test.csv.gz"]},
        "v1_2": {"train": ["/d/v1.2.csv"]},
    }
    shards = [f"/d/train-0000{number}-of-00002.parquet" for number in range(2)]
    assert group_files(shards) == {"d": {"train": shards}}
    assert group_files(["/one/x.csv", "/two/x.csv"]) == {
        "x": {"train": ["/one/x.csv"]},
        "two_x": {"train": ["/two/x.csv"]},
    }
    assert list(group_files(["/d/ä.csv", "/d/ö.csv", "/e/ä.csv"])) == ["ä", "ö", "e_ä"]
    assert list(group_files(["/d/latest.csv", "/d/trainer.csv"])) == ["latest", "trainer"]  # no words for splits


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["/d/a-test.csv"], "by its name this is a test file, but there is no training file"),
        (["/d/a-train.csv", "/d/a-test.tsv"], "the same file type"),
        (["/d/a.csv", "/d/a.csv"], "given twice"),
        (["/d/a.csv", "/d/../d/a.csv"], "given twice"),
        (["/d/a-b.csv", "/d/a_b.csv"], "by their names all are the train split of one source"),
        (["/d/a.csv", "/d/a.jsonl"], "by their names all are the train split of one source"),
    ],
)
def test_files_that_make_no_source_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_files(paths)
