"""Tests of `mtl_hf.data.catalog`: its entries, `download` from a loopback server.

Nothing here needs the network. That the converters reproduce the real files is what the checksums of
`CATALOG` are for: `download` compares them on every use.
"""

import hashlib
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mtl_hf.data import catalog
from mtl_hf.data.catalog import CATALOG, DataSet, Origin, download
from mtl_hf.data.converters import SPLITS, Files, Splits, read_lines

# The catalog


@pytest.mark.parametrize("name", CATALOG)
def test_entry_is_well_formed(name: str) -> None:
    data_set = CATALOG[name]
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert list(data_set.sha256) == list(SPLITS)
    assert all(re.fullmatch(r"[0-9a-f]{64}", checksum) for checksum in data_set.sha256.values())
    assert data_set.license.strip()
    files = [file for origin in data_set.origins for file in origin.files]
    assert files
    assert len(set(files)) == len(files)
    for origin in data_set.origins:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", origin.repository)
        assert re.fullmatch(r"[0-9a-f]{40}", origin.commit)
        for file in origin.files:
            path = f"{origin.folder}/{file}" if origin.folder else file
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)*", path)  # needs no quoting in a URL


def test_checksums_are_all_different() -> None:
    checksums = [checksum for data_set in CATALOG.values() for checksum in data_set.sha256.values()]
    assert len(set(checksums)) == len(checksums)


# Downloading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATH = f"/owner/tiny/{COMMIT}/folder/rows.txt"
ROWS = "train good\nvalidation bad\ntest wörse\n".encode()
JSON_LINES = {
    "train": '{"id":"0","text":"good"}\n',
    "validation": '{"id":"0","text":"bad"}\n',
    "test": '{"id":"0","text":"wörse"}\n',
}


class Server(ThreadingHTTPServer):
    """Answers the paths of `answers` with status and body, any other with 404; notes what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.redirects: dict[str, str] = {}
        self.announced: int | None = None  # content length to claim in place of the real one
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        status, body = self.server.answers.get(self.path, (404, b"404: Not Found"))
        if self.path in self.server.redirects:
            status, body = 302, b""
        self.send_response(status)
        if self.path in self.server.redirects:
            self.send_header("Location", self.server.redirects[self.path])
        self.send_header("Content-Length", str(self.server.announced or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def convert_tiny(files: Files) -> Splits:
    splits: Splits = {}
    for line in read_lines(files["rows.txt"]):
        split, text = line.split()
        splits[split] = [{"text": text}]
    return splits


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, server: Server) -> DataSet:
    """The only entry of the catalog, served as it should be."""
    data_set = DataSet(
        origins=(Origin("owner/tiny", COMMIT, "folder", ("rows.txt",)),),
        license="CC0-1.0",
        convert=convert_tiny,
        sha256={split: hashlib.sha256(lines.encode()).hexdigest() for split, lines in JSON_LINES.items()},
    )
    monkeypatch.setattr(catalog, "CATALOG", {"tiny": data_set})
    server.answers[PATH] = (200, ROWS)
    return data_set


def read_folder(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def assert_one_line(message: str, *parts: str) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.usefixtures("tiny")
def test_download(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=catalog.__name__)
    to = tmp_path / "new" / "data"

    folder = download("tiny", to, base_url=server.url)

    assert folder == to / "tiny"
    assert read_folder(folder) == JSON_LINES
    assert os.listdir(to) == ["tiny"]
    assert server.requests == [PATH]
    assert caplog.messages == [f"{folder}: 1 train, 1 validation, 1 test rows. Licence: CC0-1.0."]


def test_files_at_the_top_of_a_repository(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksums = {split: hashlib.sha256(lines.encode()).hexdigest() for split, lines in JSON_LINES.items()}
    top = DataSet((Origin("owner/tiny", COMMIT, "", ("rows.txt",)),), "CC0-1.0", convert_tiny, checksums)
    monkeypatch.setattr(catalog, "CATALOG", {"tiny": top})
    server.answers[f"/owner/tiny/{COMMIT}/rows.txt"] = (200, ROWS)
    assert read_folder(download("tiny", tmp_path, base_url=server.url)) == JSON_LINES


@pytest.mark.usefixtures("tiny")
def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.redirects[PATH] = "/elsewhere"
    server.answers["/elsewhere"] = (200, ROWS)
    assert read_folder(download("tiny", tmp_path, base_url=f"{server.url}/")) == JSON_LINES


@pytest.mark.usefixtures("tiny")
def test_folder_that_is_there_is_kept(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=catalog.__name__)
    folder = download("tiny", tmp_path, base_url=server.url)
    server.requests.clear()
    caplog.clear()

    assert download("tiny", tmp_path, base_url=server.url) == folder

    assert server.requests == []
    assert caplog.messages == [f"{folder} is already there with the right checksums: nothing downloaded."]


def test_folder_with_other_content_is_not_touched(server: Server, tiny: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "train.jsonl").write_text("mine\n")
    (folder / "test.jsonl").write_text(JSON_LINES["test"], encoding="utf-8")

    with pytest.raises(ValueError, match="is already there with other content") as raised:
        download("tiny", tmp_path, base_url=server.url)

    found = hashlib.sha256(b"mine\n").hexdigest()
    assert_one_line(
        str(raised.value),
        str(folder),
        f"train.jsonl has sha256 {found}, expected {tiny.sha256['train']}; validation.jsonl is missing)",
        "move or delete it",
        "`to`",
    )
    assert "test.jsonl" not in str(raised.value)
    assert read_folder(folder) == {"train": "mine\n", "test": JSON_LINES["test"]}
    assert server.requests == []


def test_wrong_checksum(server: Server, tiny: DataSet, tmp_path: Path) -> None:
    server.answers[PATH] = (200, ROWS.replace(b"good", b"evil"))

    with pytest.raises(ValueError, match="the files received are not those of") as raised:
        download("tiny", tmp_path, base_url=server.url)

    found = hashlib.sha256(b'{"id":"0","text":"evil"}\n').hexdigest()
    expected = tiny.sha256["train"]
    assert_one_line(
        str(raised.value),
        f"tiny: the files received are not those of owner/tiny@{COMMIT} ",
        f"(train.jsonl has sha256 {found}, expected {expected}): try again",
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("body", [b"<html>\n<body>please log in</body></html>", b"train \xff\n"])
def test_page_in_place_of_the_file(server: Server, tmp_path: Path, body: bytes) -> None:
    server.answers[PATH] = (200, body)

    with pytest.raises(ValueError, match="the files received are not those of") as raised:
        download("tiny", tmp_path, base_url=server.url)

    assert_one_line(str(raised.value), f"owner/tiny@{COMMIT}", "Error(", "`base_url`")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_cut_transfer(server: Server, tmp_path: Path) -> None:
    server.announced = 1000

    with pytest.raises(ConnectionError, match="was cut off") as raised:
        download("tiny", tmp_path / "data", base_url=server.url)

    received = f"was cut off after {len(ROWS)} of 1,000 bytes"
    assert_one_line(str(raised.value), f"{server.url}{PATH} {received}", "try again")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_missing_file(server: Server, tmp_path: Path) -> None:
    del server.answers[PATH]

    with pytest.raises(FileNotFoundError) as raised:
        download("tiny", tmp_path, base_url=server.url)

    assert_one_line(str(raised.value), f"{server.url}{PATH} was not found (404)", "`base_url`")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_server_error(server: Server, tmp_path: Path) -> None:
    server.answers[PATH] = (503, b"busy")

    with pytest.raises(ConnectionError) as raised:
        download("tiny", tmp_path, base_url=server.url)

    assert_one_line(
        str(raised.value),
        f"{server.url}{PATH} answered 503 Service Unavailable, expected 200 OK",
        "try again",
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_connection_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        with pytest.raises(ConnectionError, match="could not be reached") as raised:
            download("tiny", tmp_path, base_url=url)

    assert_one_line(str(raised.value), f"{url}{PATH} could not be reached (", "check the network", "`base_url`")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("base_url", ["mirror.example", "http://127.0.0.1:port"])
def test_malformed_base_url(base_url: str, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="could not be reached"):
        download("tiny", tmp_path, base_url=base_url)


@pytest.mark.usefixtures("tiny")
def test_nothing_stays_when_the_disk_fails(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def fail(source: Path, target: Path) -> None:
        written.append(read_folder(source))
        raise OSError(f"no room for {target}")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no room for"):
        download("tiny", tmp_path, base_url=server.url)
    assert written == [JSON_LINES]
    assert os.listdir(tmp_path) == []


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not in the catalog") as raised:
        download("conll2013", tmp_path)
    known = ", ".join(CATALOG)
    expected = f"`name`: 'conll2013' is not in the catalog. Did you mean 'conll2003'? Known: {known}."
    assert str(raised.value) == expected

    with pytest.raises(ValueError, match=r"'\?' is not in the catalog\. Known: snips, "):
        download("?", tmp_path)
    assert os.listdir(tmp_path) == []


def test_json_lines_are_compact_and_keep_unicode() -> None:
    lines = catalog._to_json_lines([{"text": 'ü "q"'}, {"tokens": ["a"]}])
    assert lines.decode() == '{"id":"0","text":"ü \\"q\\""}\n{"id":"1","tokens":["a"]}\n'
    assert [json.loads(line)["id"] for line in lines.splitlines()] == ["0", "1"]
