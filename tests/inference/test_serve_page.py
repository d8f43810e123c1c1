"""The page in a real browser: typing shows answers, errors are shown, nothing is loaded from elsewhere.

Needs `pip install playwright` and a Chromium of the system; the browsers of playwright itself are not used.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import SENTENCES
from tests.inference.test_serve_process import serving

TOKEN = "token-of-clients"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16)
    model.add_head("intent", type="sequence_classification", labels=["booking", "music", "<img src=x>", "d", "e", "f"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city"], text="words")
    model.add_head("same", type="sentence_similarity")
    model.add_head("answer", type="multiple_choice")
    with torch.no_grad():  # every word is a city
        model.heads["slots"].classifier.bias.copy_(torch.tensor([-50.0, 50.0]))
    path = tmp_path_factory.mktemp("page") / "assistant"
    model.save_pretrained(path)
    (path / "README.md").write_text(
        "---\nwidget:\n- text: play jazz today\n- text: play jazz\n  text_pair: play rock\n---\n", encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(folder, tmp_path_factory.mktemp("log") / "log") as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The page, loaded; at the end, nothing else was requested and no script failed."""
    context = browser.new_context(viewport={"width": 900, "height": 820})
    page, requested, failed = context.new_page(), [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(server)
    page.wait_for_selector("#model:text('assistant')")
    yield page
    assert not failed
    assert all(url.startswith((server, "data:")) for url in requested), requested
    context.close()


def titles(page: Any) -> list[str]:
    return page.locator("section h2").evaluate_all("nodes => nodes.map((node) => node.firstChild.textContent)")


def test_typing_shows_every_answer(page: Any, tmp_path: Path) -> None:
    page.keyboard.type("play 🎷 in paris")  # the text has the focus
    page.wait_for_selector("section")
    assert titles(page) == ["intent", "slots"]
    bars = page.locator("section").first.locator(".bar")
    assert bars.count() == 5
    assert "the first 5 of 6 labels" in page.locator("section").first.inner_text()
    names = bars.locator("span:first-child").all_inner_texts()
    assert set(names) <= {"booking", "music", "<img src=x>", "d", "e", "f"}
    assert page.locator("img").count() == 0, "labels are text"
    widths = page.locator(".track i").evaluate_all("nodes => nodes.map((node) => node.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0
    marks = page.locator("mark").evaluate_all("nodes => nodes.map((node) => node.firstChild.textContent)")
    assert "".join(marks) in page.locator("#text").input_value() or len(marks) > 1
    assert "paris" in marks[-1], "offsets count characters, not UTF-16 units"
    assert page.locator("#status").inner_text().endswith(" ms")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"{scheme}.png")
    dark, light = ((tmp_path / f"{scheme}.png").read_bytes() for scheme in ("dark", "light"))
    assert dark != light
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 23, 27)"


def test_two_texts_get_their_cosines_and_choices_their_bars(page: Any) -> None:
    page.get_by_label("Two texts").check()
    page.fill("#text", SENTENCES[0])
    page.fill("#other", SENTENCES[0])
    page.wait_for_selector("section >> nth=1")
    assert titles(page) == ["same", "cosine of the embeddings"]
    assert page.locator(".number").all_inner_texts() == ["1.000", "1.000"]
    page.get_by_label("Choices").check()
    page.fill("#other", "jazz\n\nrock\n")
    page.wait_for_selector(".bar >> nth=1")
    assert sorted(page.locator(".bar span:first-child").all_inner_texts()) == ["jazz", "rock"]


def test_examples_and_keys(page: Any) -> None:
    assert page.locator("#examples button").all_inner_texts() == ["play jazz today", "play jazz"]
    page.locator("#examples button").first.press("Enter")
    page.wait_for_selector("section")
    assert page.locator("#text").input_value() == "play jazz today"
    page.keyboard.press("Escape")
    assert page.locator("section").count() == 0
    assert page.locator("#text").input_value() == ""
    page.locator("#examples button").nth(1).click()
    page.wait_for_selector("section >> nth=1")
    assert page.locator("#other").input_value() == "play rock"
    page.get_by_text("API").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    assert page.locator("#text").input_value() == "play jazz", "the key is not typed"


def test_errors_are_shown(page: Any) -> None:
    page.fill("#text", "a" * 10_001)
    page.wait_for_selector("#status.bad")
    assert "at most 10,000 are allowed" in page.locator("#status").inner_text()
    assert page.locator("section").count() == 0
    page.route("**/predict", lambda route: route.abort())
    page.fill("#text", "play")
    page.wait_for_selector("#status:text('The server does not answer.')")
    page.unroute("**/predict")
    page.fill("#text", "play jazz")
    page.wait_for_selector("section")
    assert page.locator("#status.bad").count() == 0


def test_a_token_is_asked_for_where_it_is_needed(browser: Any, folder: Path, tmp_path: Path) -> None:
    with serving(folder, tmp_path / "log", MTL_HF_TOKEN=TOKEN) as (_, port):
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("#token")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model:text('assistant')")
        page.fill("#text", "play jazz")
        page.wait_for_selector("section")
        page.goto(f"http://127.0.0.1:{port}/docs")
        page.wait_for_selector("details")
        assert "Authorization: Bearer TOKEN" in page.locator("details pre").all_text_contents()[3]
        page.close()
