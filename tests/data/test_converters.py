"""Tests of `mtl_hf.data.converters`, on tiny files in the formats of the origins."""

import hashlib
from collections.abc import Callable

import pytest

from mtl_hf.data import converters
from mtl_hf.data.catalog import CATALOG
from mtl_hf.data.converters import Files, Splits

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
    assert converters.iob1_to_bio(iob1.split()) == bio.split()
    assert converters.iob1_to_bio(bio.split()) == bio.split()  # BIO is left as it is


def test_read_conll() -> None:
    text = "-DOCSTART- -X-\n\nA DT\ndog NN\n\n\n-DOCSTART- -X-\n \nIt PRP"
    assert list(converters.read_conll(text.encode())) == [[["A", "dog"], ["DT", "NN"]], [["It"], ["PRP"]]]


def test_read_conll_uneven_columns() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(converters.read_conll(b"A DT\ndog\n"))


def test_read_lines_keeps_other_separators() -> None:
    assert converters.read_lines("a\u2028b\x85c\r\n\nd\n".encode()) == ["a\u2028b\x85c\r", "", "d"]


def test_read_tweeteval_wants_a_label_for_each_text() -> None:
    files = {"val_text.txt": b"one\ntwo\n", "val_labels.txt": b"0\n"}
    with pytest.raises(ValueError, match="shorter"):
        list(converters.read_tweeteval(files, "val", ("no", "yes")))


# Data sets: the same rows in every split, unless the format asks for more


def in_each_part(parts: str, files: dict[str, str]) -> dict[str, bytes]:
    """`{part}` in a file's name stands for each of `parts`."""
    return {name.format(part=part): text.encode() for part in parts.split() for name, text in files.items()}


CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nlamb NN B-NP O\n\n"

CASES: dict[str, tuple[Callable[[Files], Splits], dict[str, bytes], list[dict[str, object]]]] = {
    "snips": (
        converters.convert_snips,
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
        converters.convert_conll2003,
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
        converters.convert_scierc_ner,
        in_each_part("train dev test", {"{part}.txt": CONLL}),
        [{"tokens": ["EU", "lamb"], "ner_tags": ["B-ORG", "O"]}],
    ),
    "sst2": (
        converters.convert_sst2,
        in_each_part("train dev test", {"{part}.tsv": "a fine , funny film\t1\ndull\t0\n"}),
        [{"text": "a fine , funny film", "label": "positive"}, {"text": "dull", "label": "negative"}],
    ),
    "tweeteval_hate": (
        converters.convert_tweeteval_hate,
        in_each_part("train val test", {"{part}_text.txt": "@user  hi \n \nbye\n", "{part}_labels.txt": "0\n1\n1\n"}),
        [{"text": "@user  hi", "label": "not-hate"}, {"text": "bye", "label": "hate"}],
    ),
    "tweeteval_emotion": (
        converters.convert_tweeteval_emotion,
        in_each_part("train val test", {"{part}_text.txt": "hi \nbye\nso\n", "{part}_labels.txt": "2\n3\n0\n"}),
        [{"text": "hi", "label": "optimism"}, {"text": "bye", "label": "sadness"}, {"text": "so", "label": "anger"}],
    ),
    "stsb": (
        converters.convert_stsb,
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
        converters.convert_goemotions,
        in_each_part("train dev test", {"{part}.tsv": "So good! \t1,0\ted1\nHm\t2\ted2\n"})
        | {"labels.txt": b"joy\nlove\nneutral\n"},
        [
            {"id": "ed1", "text": "So good!", "labels": ["love", "joy"]},
            {"id": "ed2", "text": "Hm", "labels": ["neutral"]},
        ],
    ),
    "sib200_de": (
        converters.convert_sib200,
        in_each_part("train dev test", {"{part}.tsv": 'index_id\tcategory\ttext\n7\tsports\t"Ein  ""Tor""."\n'}),
        [{"id": "7", "text": 'Ein "Tor".', "label": "sports"}],
    ),
    "wikiann_de": (
        converters.convert_wikiann,
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

    found = converters.convert_mrpc(
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
    assert converters.convert_arxiv_category({"arxiv_lite.csv": table.encode()}) == {
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
    assert converters.convert_twitter_sentiment(files) == {
        "train": [
            {"text": "A\u2019 tweet by @user", "label": "neutral"},
            {"text": "A tweet", "label": "negative"},
            {"text": "last", "label": "positive"},
        ],
        "validation": [{"text": "In validation & more", "label": "negative"}],
        "test": [{"text": "@user in test", "label": "positive"}],
    }
