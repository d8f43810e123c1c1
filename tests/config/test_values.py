"""Tests of `mtl_hf.config.values`: what unquoted text means to a field, what does not fit it, paths of packages."""

from pathlib import Path
from typing import Any, Literal

import pytest

from mtl_hf.config import Plain, parse_yaml, plain, resolve_path, typed


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (str, "no", "no"),
        (str, "on", "on"),
        (str, "012", "012"),
        (str, "1e5", "1e5"),
        (str, "null", "null"),
        (str, "2024-01-01", "2024-01-01"),
        (bool, "no", False),
        (bool, "Off", False),
        (bool, "on", True),
        (bool, "yes", True),
        (int, "012", 12),
        (int, "-3", -3),
        (int, "10_000", 10000),
        (float, "5e-5", 5e-5),
        (float, "5", 5.0),
        (float, ".5", 0.5),
        (float, "1.e3", 1000.0),
        (int | None, "~", None),
        (int | None, "null", None),
        (int | None, "7", 7),
        (float | str, "0.1", 0.1),
        (float | str, "auto", "auto"),
        (bool | str | None, "no", False),
        (str | list[str], "[a, 012]", ["a", "012"]),
        (list[str] | dict[str, str] | None, "{0: no, 1: on}", {"0": "no", "1": "on"}),
        (list[float], "[1, 2e-1]", [1.0, 0.2]),
        (dict[str, Any], "{a: 012, b: no, c: true, d: 1e2, e: '7', f: }",
         {"a": 12, "b": "no", "c": True, "d": 100.0, "e": "7", "f": None}),
        (Literal["no", "yes"], "no", "no"),
    ],
)  # fmt: skip
def test_unquoted_text_becomes_what_its_field_says(hint: Any, text: str, value: Any) -> None:
    found = typed(hint, parse_yaml(text, "text"), "key")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "text", "expected"),
    [
        (int, "'5'", "a whole number"),
        (int, "5.0", "a whole number"),
        (int, "true", "a whole number"),
        (int, "9" * 20, "a whole number of at most 18 digits"),
        (int, "9" * 5000, r"9\.\.\. \(5,000 characters\); it should be a whole number of at most 18 digits"),
        (float, '"5e-5"', "a number"),
        (float, "fast", "a number"),
        (bool, "'yes'", "true or false"),
        (bool, "1", "true or false"),
        (int | None, "'5'", "a whole number"),
        (list[str], "a", "a list"),
        (dict[str, Any], "[1]", "a mapping"),
        (str, "[a]", "text"),
        (str, "", "text"),
        (Literal["mean", "cls"], "men", "valid are mean, cls"),
        (int | list[int], "a", "a whole number or a list"),
        (list[int], "[1, b]", "a whole number"),
    ],
)
def test_what_does_not_fit_its_field_is_refused(hint: Any, text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        typed(hint, parse_yaml(text, "text"), "some.key")
    assert "`some.key" in str(caught.value)


def test_long_digits_are_numbers_only_where_a_number_is_taken() -> None:
    assert typed(float, Plain("9" * 20), "key") == 1e20
    assert typed(Any, Plain("9" * 20), "key") == "9" * 20
    assert typed(str, Plain("9" * 5000), "key") == "9" * 5000


def test_values_of_python_are_not_reread_as_text() -> None:
    assert typed(str, "no", "key") == "no"
    assert plain({"a": "012", "b": ("1", 2)}) == {"a": "012", "b": ["1", 2]}
    for hint, value in ((int, "5"), (int, True), (float, True), (bool, "yes"), (bool, 1)):
        with pytest.raises(ValueError, match="`key` is"):
            typed(hint, value, "key")


def test_package_paths_are_found_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tiny_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_path("package:tiny_package/model") == str(package / "model")
    assert resolve_path("some/model") == "some/model"
    with pytest.raises(ValueError, match="there is no 'modl' in the installed package 'tiny_package'"):
        resolve_path("package:tiny_package/modl")
    with pytest.raises(ValueError, match="'no_such_package' is not installed; try: pip install no-such-package"):
        resolve_path("package:no_such_package/model")
    with pytest.raises(ValueError, match="is not installed"):
        resolve_path("package:a.b/model")


def test_plain_text_shows_without_quotes_in_messages() -> None:
    with pytest.raises(ValueError, match="`key` is abc; it should be a number"):
        typed(float, Plain("abc"), "key")
