"""Tests of `mtl_hf.config.yaml_trees`: files that are no config, repeated keys and merged ones."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl_hf.config import RunConfig, read_yaml
from mtl_hf.config.yaml_trees import MOST_CHARACTERS, MOST_VALUES
from tests.config.conftest import MINIMAL, load_text, minimal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {encoder: a}\nmodel: {encoder: b}\n", r"config\.yaml: line 2: `model` is already given in line 1"),
        ("model:\n  encoder: a\n  pooling: cls\n  encoder: b\n", r"line 4: `encoder` is already given in line 2"),
        ("model: {encoder: a", "is not valid YAML"),
        ("- a\n- b\n", "the top level is a list of 2; it should be a mapping"),
        ("", "it should be a mapping"),
    ],
)
def test_file_that_is_no_config_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        load_text(tmp_path, text)


def test_keys_merged_from_an_anchor_are_no_duplicates(tmp_path: Path) -> None:
    text = """
model: {encoder: a}
sources:
  one: &one {path: json, data_files: &files {train: a.jsonl}, text: text}
  two: {<<: *one, path: csv, data_files: {<<: *files, test: b.jsonl, train: c.jsonl}}
tasks:
  sentiment: {type: sequence_classification, source: [one, two], label: sentiment}
"""
    sources = load_text(tmp_path, text).sources
    assert (sources["one"].path, sources["two"].path) == ("json", "csv")
    assert sources["two"].data_files == {"train": "c.jsonl", "test": "b.jsonl"}


def test_key_merged_twice_from_a_deeper_place_is_no_duplicate(tmp_path: Path) -> None:
    text = "a: &a {x: 1}\ndeep:\n  inner: &b {<<: *a, x: 2}\ntop: {<<: *b}\n"
    file = tmp_path / "file.yaml"
    file.write_text(text)
    assert read_yaml(file)["top"] == {"x": "2"}


def test_missing_file_and_other_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no config file .*none\.yaml"):
        RunConfig.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: {encoder: é}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml is not UTF-8"):
        RunConfig.load(tmp_path / "latin.yaml")


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Fail after so many calls of Python functions, a measure of work that is the same on every machine."""
    left = iter(range(calls))

    def count(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and next(left, None) is None:
            raise AssertionError(f"more than {calls:,} functions were called")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


def bomb(first: str, item: str, levels: int = 10, width: int = 10) -> str:
    """Lines of YAML below `training:`, each of which repeats the one before `width` times, by aliases."""
    lines = [f"  a0: &a0 {first}"]
    for level in range(1, levels):
        inner = ", ".join(item.format(place=place, alias=f"*a{level - 1}") for place in range(width))
        lines.append(f"  a{level}: &a{level} " + (f"{{{inner}}}" if ":" in item else f"[{inner}]"))
    return MINIMAL + "training:\n" + "\n".join(lines) + "\n"


def variables(text: str, levels: int) -> str:
    """A config whose encoder is a variable of variables, each of which repeats the one before."""
    lines = ["v0: x"] + [f"v{level}: {text.replace('?', f'${{v{level - 1}}}')}" for level in range(1, levels)]
    return "\n".join(lines) + MINIMAL.replace("some/encoder", f"${{v{levels - 1}}}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            bomb("[x]", "{alias}"),
            r"config\.yaml: line 13: more than 25,000 values, including those that aliases repeat",
        ),
        (bomb("{x: 1}", "k{place}: {alias}"), "line 12: more than 25,000 values"),
        (bomb("{x: 1}", "<<: [{alias}, {alias}, {alias}]", levels=30, width=1), "more than 25,000 values"),
        (MINIMAL + "training:\n" + "".join(f"  k{n}: 1\n" for n in range(MOST_VALUES // 2)), "more than 25,000 values"),
        (variables("??????????", 12), r"`\$\{v5\}`: variables make more than 1,048,576 characters"),
        (variables("a??", 60), "variables make more than 1,048,576 characters"),
        (MINIMAL + "training: &t {output_dir: *t}\n", r"line 7: the alias `\*t` refers to a value that contains it"),
        (MINIMAL + "training: &t {<<: *t}\n", r"the alias `\*t` refers to a value that contains it"),
        ("model: &m [*m]\n", r"line 1: the alias `\*m` refers to a value that contains"),
        ("&a\nmodel: *a\n", r"line 2: the alias `\*a` refers to a value that contains"),
        ("a: ${b}\nb: ${a}\n" + MINIMAL.replace("some/encoder", "${a}"), "a -> b -> a refer to each other in a circle"),
        (
            MINIMAL + "training: {x: " + "[" * 100_000 + "]" * 100_000 + "}",
            "line 7: values are nested more than 50 deep",
        ),
        (MINIMAL + "training: " + "{a: " * 3000 + "1" + "}" * 3000, "line 7: values are nested more than 50 deep"),
        (MINIMAL + f"training: {{output_dir: {'x' * MOST_CHARACTERS}}}", "has more than 1,048,576 characters"),
        (MINIMAL + "training: {output_dir: a\0b}\n", r"line 7: the character '\\x00' is not allowed"),
        (MINIMAL + "training: {output_dir: a\x07b}\n", r"line 7: the character '\\x07' is not allowed"),
        (MINIMAL + "training: {output_dir: a\ufdd0b}\n", r"line 7: the character '\\ufdd0' is not allowed"),
        (MINIMAL + 'training: {output_dir: "\\0"}', r"`training\.output_dir` is '\\x00'; the character"),
        (MINIMAL + 'training: {output_dir: "\\ud800"}', r"`training\.output_dir` is '\\ud800'; the character"),
        (MINIMAL + 'training: {output_dir: "\\UFFFFFFFF"}', r"config\.yaml is not valid YAML"),
        (
            MINIMAL + "training: !!python/object/apply:os.system [true]\n",
            "line 7: the tag `!!python/object/apply:os.sys",
        ),
        (MINIMAL + "training: {seed: !!int three}\n", "line 7: the tag `!!int` is not supported; remove it"),
        (MINIMAL + "training: {seed: !!timestamp three}\n", "the tag `!!timestamp` is not supported"),
        (MINIMAL + "training: {output_dir: !!binary aGk=}\n", "the tag `!!binary` is not supported"),
        (MINIMAL + "training: !!set {a, b}\n", "the tag `!!set` is not supported"),
        (MINIMAL + "training: {[1, 2]: a}\n", "found unhashable key"),
        (MINIMAL + "training: []\n", "`training` is a list of 0; it should be a mapping"),
    ],
)
def test_what_is_hostile_or_no_config_is_refused_at_once(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught, at_most(20_000 + 30 * len(text)):
        load_text(tmp_path, text)
    assert len(str(caught.value)) < 1000


def test_variables_that_come_to_nothing_or_in_any_order_are_filled_once(tmp_path: Path) -> None:
    text = variables("??", 200).replace("v0: x", "v0: ''")
    with pytest.raises(ValueError, match=r"`model\.encoder` is missing"):
        load_text(tmp_path, text)
    assert load_text(tmp_path, variables("?", 200)).model.encoder == "x"
    backwards = "".join(f"v{number}: a${{v{number + 1}}}\n" for number in range(20)) + "v20: b\n"
    assert load_text(tmp_path, backwards + MINIMAL.replace("some/encoder", "${v0}")).model.encoder == "a" * 20 + "b"


def test_aliases_that_repeat_a_little_are_read(tmp_path: Path) -> None:
    text = MINIMAL + "training: {freeze: &f [embeddings], lr_scheduler_kwargs: {a: *f, b: [*f, *f]}}\n"
    assert load_text(tmp_path, text).training["lr_scheduler_kwargs"] == {"a": ["embeddings"], "b": [["embeddings"]] * 2}


def test_tagged_text_is_text_whatever_its_key_takes(tmp_path: Path) -> None:
    text = MINIMAL + "training: {a: !!str 012, b: 012, c: !!str no, d: 2001-01-01}\n"
    assert load_text(tmp_path, text).to_dict()["training"] == {"a": "012", "b": 12, "c": "no", "d": "2001-01-01"}


def test_characters_of_private_use_stay(tmp_path: Path) -> None:
    assert (
        load_text(tmp_path, MINIMAL + "training: {run_name: a\ue000b\ue001}\n").training["run_name"] == "a\ue000b\ue001"
    )


def nested(levels: int) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    inner = tree
    for _ in range(levels):
        inner["a"] = {}
        inner = inner["a"]
    return tree


def test_python_values_are_bounded_too() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide: list[Any] = ["x"]
    for _ in range(9):
        wide = [wide] * 10
    for value, expected in (
        (nested(5000), r"`training\.a\.a\.a.*nested more than 50 deep"),
        ({"freeze": endless}, r"`training\.freeze\[0\]\[0\].*nested more than 50 deep, or in themselves"),
        ({"freeze": wide}, r"`training\.freeze.*: the config has more than 25,000 values"),
        ({"seed": 10**5000}, r"`training\.seed` has more than 18 digits"),
        ({("a",): 1}, r"`training` has the key `\('a',\)`; keys should be text"),
        ({1: 1, "1": 2}, r"`training` has the key `1` twice"),
        ({"output_dir": "\udc80"}, r"`training\.output_dir` is '\\udc80'; the character"),
    ):
        with pytest.raises(ValueError, match=expected):
            RunConfig.load(minimal(training=value))
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        RunConfig.load(minimal(), ["training." + ".".join("a" * 3000) + "=1"])


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    run = RunConfig.load(minimal(training={"learning_rate": np.float32(0.5), "seed": np.int64(3), "x": np.float64(2)}))
    assert run.training == {"learning_rate": 0.5, "seed": 3, "x": 2.0}
    assert "learning_rate: 0.5\n  seed: 3\n  x: 2.0\n" in run.to_yaml()


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, 3, None, b"x"])
def test_what_is_no_path_of_a_file_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match=r"^the config( file)? .*(cannot be read|should be a YAML file)"):
        RunConfig.load(path)


def test_folder_device_and_byte_order_mark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        RunConfig.load(tmp_path)
    with pytest.raises(ValueError, match="/dev/zero has more than 1,048,576 characters"):
        RunConfig.load("/dev/zero")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert RunConfig.load(tmp_path / "bom.yaml").model.encoder == "some/encoder"
