"""Tests of `mtl_hf.tasks.name_column` against lists of labels."""

import collections
import itertools
import random
from typing import Any

import datasets
import numpy as np
import pytest

from mtl_hf.tasks import name_column
from mtl_hf.tasks.name_column import NameColumn

Rows = list[list[str | None] | None]


def draw_rows(seed: int) -> Rows:
    generator = random.Random(seed)
    return [
        None
        if generator.random() < 0.1
        else generator.choices(["O", "B-x", "I-x", "B-y", None], k=generator.randint(0, 5))
        for _ in range(generator.randint(0, 30))
    ]


def read(rows: Rows) -> NameColumn:
    features = datasets.Features({"tags": datasets.List(datasets.Value("string"))})
    column = NameColumn.read(datasets.Dataset.from_dict({"tags": rows}, features), "tags", lists=True)
    assert column is not None
    return column


def items(rows: Rows) -> list[tuple[int, int, str | None]]:
    return [(row, place, tag) for row, tags in enumerate(rows) for place, tag in enumerate(tags or ())]


@pytest.mark.parametrize("seed", range(20))
def test_column_is_the_list_of_its_rows(seed: int) -> None:
    rows = draw_rows(seed)
    for column in (read(rows), NameColumn.of(rows)):
        assert list(column) == rows
        assert column == rows
        assert [column[row] for row in range(len(rows))] == rows
        assert column[2:7] == rows[2:7]
        order = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2]
        assert column.take(order) == [rows[row] for row in order]
        assert column.take(order).pairs() == NameColumn.of(rows[row] for row in order).pairs()
        known = [label is not None and (not label or any(tag is not None for tag in label)) for label in rows]
        assert column.labelled().tolist() == known


@pytest.mark.parametrize("seed", range(20))
def test_counts_and_places_are_those_of_the_items(seed: int) -> None:
    rows = draw_rows(seed)
    column = read(rows).take(range(len(rows) // 2, len(rows)))  # which does not have every name any more
    rows = rows[len(rows) // 2 :]
    found = items(rows)
    expected = collections.Counter(tag for _, _, tag in found if tag is not None)
    assert list(column.counts().items()) == list(expected.items())
    begins = [(row, place) for row, place, tag in found if tag in ("B-x", "B-y")]
    assert [column.place(item) for item in column.items_with(["B-x", "B-y", "B-z"])] == begins
    ids = {"O": 3, "B-x": 5}
    assert column.ids(ids, -100).tolist() == [-100 if tag is None else ids.get(tag, -100) for _, _, tag in found]


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_renamed_once_each_with_the_first_row_that_has_them(seed: int) -> None:
    rows = draw_rows(seed)
    seen: list[tuple[str, int]] = []

    def rename(name: str, row: int) -> str | None:
        seen.append((name, row))
        return None if name == "B-y" else name[-1].upper()

    renamed = read(rows).rename(rename)
    firsts: dict[str, int] = {}
    for row, _, tag in items(rows):
        if tag is not None:
            firsts.setdefault(tag, row)
    assert seen == list(firsts.items())
    assert renamed == [
        None if tags is None else [None if tag in (None, "B-y") else tag[-1].upper() for tag in tags] for tags in rows
    ]
    assert set(renamed.names) <= {"O", "X"}


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_those_of_neighbours_in_a_row(seed: int) -> None:
    rows = draw_rows(seed)
    column = read(rows)
    expected = collections.Counter(pair for tags in rows if tags for pair in itertools.pairwise([None, *tags, None]))
    assert column.pairs() == expected

    def change(before: str | None, own: str | None) -> tuple[str | None, bool]:
        return own and f"{before}>{own}", own == "I-x" and before in (None, "O")

    changed, chosen = column.map_pairs(change)
    found = [[change(*pair) for pair in itertools.pairwise([None, *(tags or ())])] for tags in rows]
    assert changed == [
        None if tags is None else [name for name, _ in row] for tags, row in zip(rows, found, strict=True)
    ]
    expected_places = [(row, place) for row, one in enumerate(found) for place, (_, yes) in enumerate(one) if yes]
    assert [column.place(item) for item in chosen] == expected_places


def test_many_distinct_labels_have_pairs_too() -> None:
    rows: Rows = [[str(number), str(number + 1), None] for number in range(1200)]
    column = NameColumn.of(rows)
    assert column.pairs() == collections.Counter(
        pair for tags in rows if tags for pair in itertools.pairwise([None, *tags, None])
    )
    changed, chosen = column.map_pairs(lambda before, own: (own, before == "7"))
    assert changed == rows
    assert [column.place(item) for item in chosen] == [(6, 2), (7, 1)]


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (datasets.List(datasets.Value("int64")), [[1, 0], [1], None]),
        (datasets.List(datasets.Value("bool")), [[True, False], [True, None], []]),
        (datasets.List(datasets.Value("float64")), [[1.0, 2.5], [None]]),
        (datasets.List(datasets.ClassLabel(names=["a", "b"])), [[1, 0], [-1]]),
        (datasets.List(datasets.Value("string"), 2), [["a", "b"], None, ["b", None]]),
        (datasets.LargeList(datasets.Value("large_string")), [["a", "b"], None, ["b", None]]),
        (datasets.List(datasets.Value("null")), [[None], []]),
    ],
)
def test_types_of_items(feature: Any, values: Any) -> None:
    column = NameColumn.read(
        datasets.Dataset.from_dict({"x": values}, datasets.Features({"x": feature})), "x", lists=True
    )
    assert column is not None
    assert repr(list(column)) == repr(values)


@pytest.mark.parametrize("feature", [datasets.Value("string"), datasets.Json(), datasets.List(datasets.Json())])
def test_other_columns_are_not_read(feature: Any) -> None:
    rows = datasets.Dataset.from_dict({"x": [None, None]}, datasets.Features({"x": feature}))
    assert NameColumn.read(rows, "x", lists=True) is None


def test_one_label_a_row() -> None:
    rows = datasets.Dataset.from_dict({"x": ["b", None, "a", "b"], "y": [["a"], [], None, ["b"]]})
    column = NameColumn.read(rows.select([3, 2, 1]), "x", lists=False)
    assert column is not None
    assert column.items == ["b", "a", None]
    assert column.rename(lambda name, row: (name, row)).items == [("b", 0), ("a", 1), None]
    assert NameColumn.read(rows, "y", lists=False) is None
    assert NameColumn.read(rows, "x", lists=True) is None


@pytest.mark.parametrize("seed", range(10))
def test_sets_are_sorted(seed: int) -> None:
    rows = [None if tags is None else [tag for tag in tags if tag] for tags in draw_rows(seed)]
    assert read(rows).sets() == [None if tags is None else sorted(set(tags)) for tags in rows]


def test_equal_values_of_different_types_are_different_labels() -> None:
    assert repr(list(NameColumn.of([[1, True, 1.0, "1"], [True]]))) == "[[1, True, 1.0, '1'], [True]]"


def test_columns_are_joined_row_by_row_under_common_names() -> None:
    first = NameColumn.of([["a", "b"], None, [], ["b", None]])
    second = NameColumn.of([["c"], ["a", "a", "c"]])
    lists = [*first, *second]
    assert list(NameColumn.join([first, second])) == lists
    order = [4, 0, 3, 5, 1, 0]
    which, rows = np.array([place // 4 for place in order]), np.array([place % 4 for place in order])
    assert list(NameColumn.join([first, second], (which, rows))) == [lists[place] for place in order]
    assert NameColumn.join([first, second]).names == ["a", "b", "c"]


def test_many_rows_are_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    lists = [
        None
        if generator.random() < 0.2
        else [generator.choice(["O", "B-x", None]) for _ in range(generator.randrange(4))]
        for _ in range(60)
    ]
    column = NameColumn.of(lists)

    def facts() -> list[Any]:
        changed = column.map_pairs(lambda before, own: (f"{before}{own}", own is None))
        return [column.counts(), column.labelled().tolist(), column.pairs(), list(column), list(column[7:33]),
                *map(list, changed)]  # fmt: skip

    whole = facts()
    monkeypatch.setattr(name_column, "_BLOCK", 7)
    assert facts() == whole
    assert whole[3] == lists
