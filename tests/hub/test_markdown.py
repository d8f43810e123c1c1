"""Text of others in Markdown, read back by a parser of it."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from mtl_hf.hub.markdown import Markdown, code, literal, quoted, table

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "a|b",
    "a\\|b",
    "`",
    "a`b``c",
    "``",
    "[click](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "https://evil.example",
    "www.evil.example",
    "<https://evil.example>",
    "line\n# heading",
    "a\r\n---\r\nlicense: mit\n",
    "**bold** _it_ ~~no~~",
    "__init__",
    "&lt;b&gt;",
    "\u2028<b>",
    "@owner #12",
    "$x$",
    "- item",
    "1. item",
    "<!-- ",
    "\\",
]


def render(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def flat(text: str) -> str:
    """As a code span shows it: on one line, without signs that cannot be printed."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("show", [literal, code])
def test_text_of_others_is_shown_and_no_markup(text: str, show) -> None:
    rendered = render(f"before {show(text)} after")
    assert rendered == f"<p>before <code>{html.escape(flat(text)).replace('&#x27;', chr(39))}</code> after</p>\n"


@pytest.mark.parametrize(
    "text", ["music", "play_music", "25 %", "B-city", "(other or none)", "f1", "1.633", "-0.5", "5.2 to 7.1"]
)
def test_plain_text_stays_plain(text: str) -> None:
    assert literal(text) == text
    assert render(literal(text)) == f"<p>{text}</p>\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_one_cell(text: str) -> None:
    rendered = render(table(["label", "number"], [[text, "1"], [Markdown("**ours**"), "2"]]))
    assert len(re.findall("<tr>", rendered)) == 3
    first, second = re.findall("<td>(.*?)</td>", rendered)[:2]
    assert html.unescape(first) == f"<code>{flat(text)}</code>"
    assert second == "1"
    assert "<td><strong>ours</strong></td>" in rendered


def test_a_name_in_code_is_one_string() -> None:
    for text in [*HOSTILE, '")\nimport os  # "']:
        shown = quoted(text)
        assert eval(shown) == text
        assert "\n" not in shown
        assert "`" not in shown
    assert quoted("me/modèle") == '"me/modèle"'
