"""Tests of `mtl_hf.data.catalog`: its entries, `download` from a loopback server, converters on tiny files.

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
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mtl_hf.data import catalog
from mtl_hf.data.catalog import CATALOG, DataSet, Files, Origin, Splits, download

# The catalog


@pytest.mark.parametrize("name", CATALOG)
def test_entry_is_well_formed(name: str) -> None:
    data_set = CATALOG[name]
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert list(data_set.sha256) == list(catalog.SPLITS)
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
    for line in catalog.read_lines(files["rows.txt"]):
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


# Formats


@pytest.mark.parametrize(
    ("iob1", "bio"),
    [
        ("", ""),
        ("O O", "O O"),
        ("I-PER I-PER O I-PER", "B-PER I-PER O B-PER"),
        ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("B-PER I-LOC", "B-PER B-LOC"),
        ("O B-PER I-PER B-LOC", "O B-PER I-PER B-LOC"),
    ],
)
def test_iob1_to_bio(iob1: str, bio: str) -> None:
    assert catalog.iob1_to_bio(iob1.split()) == bio.split()
    assert catalog.iob1_to_bio(bio.split()) == bio.split()  # BIO is left as it is


def test_read_conll() -> None:
    text = "-DOCSTART- -X-\n\nA DT\ndog NN\n\n\n-DOCSTART- -X-\n \nIt PRP"
    assert list(catalog.read_conll(text.encode())) == [[["A", "dog"], ["DT", "NN"]], [["It"], ["PRP"]]]


def test_read_conll_uneven_columns() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(catalog.read_conll(b"A DT\ndog\n"))


def test_read_lines_keeps_other_separators() -> None:
    assert catalog.read_lines("a\u2028b\x85c\r\n\nd\n".encode()) == ["a\u2028b\x85c\r", "", "d"]


def test_read_tweeteval_wants_a_label_for_each_text() -> None:
    files = {"val_text.txt": b"one\ntwo\n", "val_labels.txt": b"0\n"}
    with pytest.raises(ValueError, match="shorter"):
        list(catalog.read_tweeteval(files, "val", ("no", "yes")))


def test_json_lines_are_compact_and_keep_unicode() -> None:
    lines = catalog._to_json_lines([{"text": 'ü "q"'}, {"tokens": ["a"]}])
    assert lines.decode() == '{"id":"0","text":"ü \\"q\\""}\n{"id":"1","tokens":["a"]}\n'
    assert [json.loads(line)["id"] for line in lines.splitlines()] == ["0", "1"]


# Data sets: the same rows in every split, unless the format asks for more


def in_each_part(parts: str, files: dict[str, str]) -> dict[str, bytes]:
    """`{part}` in a file's name stands for each of `parts`."""
    return {name.format(part=part): text.encode() for part in parts.split() for name, text in files.items()}


CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nlamb NN B-NP O\n\n"

CASES: dict[str, tuple[Callable[[Files], Splits], dict[str, bytes], list[dict[str, object]]]] = {
    "snips": (
        catalog.convert_snips,
        in_each_part(
            "train dev test",
            {
                "{part}/seq.in": "play abba \n",
                "{part}/seq.out": "O B-artist \n",
                "{part}/label": "PlayMusic\n",
            },
        ),
        [{"tokens": ["play", "abba"], "slots": ["O", "B-artist"], "intent": "PlayMusic"}],
    ),
    "conll2003": (
        catalog.convert_conll2003,
        in_each_part("train testa testb", {"eng.{part}": CONLL}),
        [
            {
                "tokens": ["EU", "lamb"],
                "pos_tags": ["NNP", "NN"],
                "chunk_tags": ["B-NP", "B-NP"],
                "ner_tags": ["B-ORG", "O"],
            }
        ],
    ),
    "scierc_ner": (
        catalog.convert_scierc_ner,
        in_each_part("train dev test", {"{part}.txt": CONLL}),
        [{"tokens": ["EU", "lamb"], "ner_tags": ["B-ORG", "O"]}],
    ),
    "sst2": (
        catalog.convert_sst2,
        in_each_part("train dev test", {"{part}.tsv": "a fine , funny film\t1\ndull\t0\n"}),
        [{"text": "a fine , funny film", "label": "positive"}, {"text": "dull", "label": "negative"}],
    ),
    "tweeteval_hate": (
        catalog.convert_tweeteval_hate,
        in_each_part("train val test", {"{part}_text.txt": "@user  hi \n \nbye\n", "{part}_labels.txt": "0\n1\n1\n"}),
        [{"text": "@user  hi", "label": "not-hate"}, {"text": "bye", "label": "hate"}],
    ),
    "tweeteval_emotion": (
        catalog.convert_tweeteval_emotion,
        in_each_part("train val test", {"{part}_text.txt": "hi \nbye\nso\n", "{part}_labels.txt": "2\n3\n0\n"}),
        [{"text": "hi", "label": "optimism"}, {"text": "bye", "label": "sadness"}, {"text": "so", "label": "anger"}],
    ),
    "stsb": (
        catalog.convert_stsb,
        in_each_part(
            "train dev test",
            {
                "sts-{part}.csv": 'main-captions\tMSRvid\t2012\t0001\t3.750\tHe "left.\tHe went. \n'
                "news\tMSR\t2012\t7\t0\tA\tB\tMSRpar\thttp://b\n"
            },
        ),
        [{"text": 'He "left.', "text_pair": "He went.", "score": 3.75}, {"text": "A", "text_pair": "B", "score": 0.0}],
    ),
    "goemotions": (
        catalog.convert_goemotions,
        in_each_part("train dev test", {"{part}.tsv": "So good! \t1,0\ted1\nHm\t2\ted2\n"})
        | {"labels.txt": b"joy\nlove\nneutral\n"},
        [
            {"id": "ed1", "text": "So good!", "labels": ["love", "joy"]},
            {"id": "ed2", "text": "Hm", "labels": ["neutral"]},
        ],
    ),
    "sib200_de": (
        catalog.convert_sib200,
        in_each_part("train dev test", {"{part}.tsv": 'index_id\tcategory\ttext\n7\tsports\t"Ein  ""Tor""."\n'}),
        [{"id": "7", "text": 'Ein "Tor".', "label": "sports"}],
    ),
    "wikiann_de": (
        catalog.convert_wikiann,
        in_each_part("train dev test", {"{part}": "de:Anton\tB-PER\nde::\tO\n\nde:Hinzu\tO\n\n"}),
        [{"tokens": ["Anton", ":"], "ner_tags": ["B-PER", "O"]}, {"tokens": ["Hinzu"], "ner_tags": ["O"]}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_converter(name: str) -> None:
    convert, files, rows = CASES[name]
    assert CATALOG[name].convert is convert
    assert set(files) == {file for origin in CATALOG[name].origins for file in origin.files}
    assert convert(files) == {"train": rows, "validation": rows, "test": rows}


def test_convert_mrpc() -> None:
    rows = [(number % 2, f"first {number} ", f"second {number}") for number in range(30)]
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"

    def table(rows: list[tuple[int, str, str]], *more: str) -> bytes:
        return "\r\n".join([header, *(f"{same}\t5\t6\t{a}\t{b}" for same, a, b in rows), *more, ""]).encode()

    found = catalog.convert_mrpc(
        {
            "msr_paraphrase_train.txt": table(rows, "1\t-1\t-1\tadded\tby the origin"),
            "msr_paraphrase_test.txt": table(rows[:1]),
        }
    )
    assert found["test"] == [{"text": "first 0", "text_pair": "second 0", "label": "not_equivalent"}]
    numbers = {split: [int(row["text"].split()[1]) for row in found[split]] for split in ("train", "validation")}
    hashes = {number: hashlib.sha256(f"first{number}second{number}".encode()).hexdigest() for number in range(30)}
    least = {*sorted(range(0, 30, 2), key=hashes.get)[:2], *sorted(range(1, 30, 2), key=hashes.get)[:2]}
    assert numbers == {"train": [n for n in range(30) if n not in least], "validation": sorted(least)}


def test_convert_arxiv_category() -> None:
    table = (
        "title,summary,comment,authors,category,split\n"
        'On  bursts,"We say ""hm"",\nand\tmore.",14 pages,"A, B",physics,test\n'
        "Sets,Some.,,C,mathematics,val\n"
        "Maps,None.,,D,mathematics,train\n"
    )
    assert catalog.convert_arxiv_category({"arxiv_lite.csv": table.encode()}) == {
        "train": [{"text": "Maps", "text_pair": "None.", "label": "mathematics"}],
        "validation": [{"text": "Sets", "text_pair": "Some.", "label": "mathematics"}],
        "test": [{"text": "On bursts", "text_pair": 'We say "hm", and more.', "label": "physics"}],
    }


def test_convert_twitter_sentiment() -> None:
    files = {
        "val_text.txt": b"In validation &amp; more \n",
        "val_labels.txt": b"0\n",
        "test_text.txt": b"@user in test\n",
        "test_labels.txt": b"2\n",
        "twitter-2014b-A.tsv": (
            b"3\tneutral\ta tweet!\t\n"  # a repeat, and an empty column as in one of the real files
            b"4\tpositive\tlast\t\n"
            b"1\tpositive\tthe id of the first\t\n"
        ),
        "twitter-2013a-A.tsv": (
            b"1\tneutral\tA\\u2019 tweet by @me_2 http://t.co/x\n"  # first: files are sorted by name
            b"2\tpositive\tIN VALIDATION: more\n"  # its words are in validation
            b"2\tnegative\t@someone in test...\n"  # its words are in test
            b"2\tnegative\tA tweet  by @you\n"  # its words are those of the first
            b"3\tnegative\tA tweet\n"
        ),
    }
    assert catalog.convert_twitter_sentiment(files) == {
        "train": [
            {"text": "A\u2019 tweet by @user", "label": "neutral"},
            {"text": "A tweet", "label": "negative"},
            {"text": "last", "label": "positive"},
        ],
        "validation": [{"text": "In validation & more", "label": "negative"}],
        "test": [{"text": "@user in test", "label": "positive"}],
    }
