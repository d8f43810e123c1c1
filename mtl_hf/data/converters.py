"""Published files of public data sets → rows: what `catalog.py` writes as JSON lines.

Notable: pure functions from the bytes of files to the rows of each split, tested on tiny files; that they reproduce the
real rows is what the checksums of the catalog are for.
"""

import csv
import hashlib
import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

SPLITS = ("train", "validation", "test")

Files = Mapping[str, bytes]  # path inside the folder of its origin -> content
Row = Mapping[str, str | list[str] | float]  # column -> value
Splits = dict[str, list[Row]]  # train, validation and test -> rows

# What origins call validation: split -> its part of a file's name.
_DEV = {"train": "train", "validation": "dev", "test": "test"}
_VAL = _DEV | {"validation": "val"}

# Formats


def read_lines(data: bytes) -> list[str]:
    """The lines of a UTF-8 text, ended by line feeds only: tweets contain other line separators."""
    return data.decode().removesuffix("\n").split("\n")


def read_conll(data: bytes) -> Iterator[list[list[str]]]:
    """Yields the columns of each sentence of a file with one token a line and blank lines between sentences.

    Document markers (`-DOCSTART-`) are dropped.
    """
    for block in re.split(r"\n\s*\n", data.decode().strip()):
        lines = [line.split() for line in block.split("\n") if not line.startswith("-DOCSTART-")]
        if lines:
            yield [list(column) for column in zip(*lines, strict=True)]


def iob1_to_bio(tags: Iterable[str]) -> list[str]:
    """Writes `B-` at the start of every span; IOB1 does so only between two neighbours of the same type."""
    bio = []
    previous = "O"
    for tag in tags:
        starts = tag.startswith("I-") and previous[2:] != tag[2:]
        bio.append(f"B-{tag[2:]}" if starts else tag)
        previous = tag
    return bio


def read_tweeteval(files: Files, part: str, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields text and label of each tweet of `part`; `labels` are in the order of their numbers."""
    texts, numbers = read_lines(files[f"{part}_text.txt"]), read_lines(files[f"{part}_labels.txt"])
    for text, number in zip(texts, numbers, strict=True):
        yield text, labels[int(number)]


# Data sets


def convert_snips(files: Files) -> Splits:
    """Joins words, slots and intents, which are lines of three files."""
    return {
        split: [
            {"tokens": tokens.split(), "slots": slots.split(), "intent": intent}
            for tokens, slots, intent in zip(
                *(read_lines(files[f"{part}/{file}"]) for file in ("seq.in", "seq.out", "label")), strict=True
            )
        ]
        for split, part in _DEV.items()
    }


def convert_conll2003(files: Files) -> Splits:
    """One row a sentence with part of speech, chunks and names; the latter two from IOB1 to BIO."""
    return {
        split: [
            {
                "tokens": tokens,
                "pos_tags": pos_tags,
                "chunk_tags": iob1_to_bio(chunk_tags),
                "ner_tags": iob1_to_bio(ner_tags),
            }
            for tokens, pos_tags, chunk_tags, ner_tags in read_conll(files[file])
        ]
        for split, file in (("train", "eng.train"), ("validation", "eng.testa"), ("test", "eng.testb"))
    }


def convert_scierc_ner(files: Files) -> Splits:
    """One row a sentence; part of speech and chunks are placeholders in this source and are dropped."""
    return {
        split: [
            {"tokens": tokens, "ner_tags": iob1_to_bio(ner_tags)} for tokens, _, _, ner_tags in read_conll(files[file])
        ]
        for split, file in (("train", "train.txt"), ("validation", "dev.txt"), ("test", "test.txt"))
    }


def convert_sst2(files: Files) -> Splits:
    """Sentence and 0 or 1, separated by a tab; the sentences are tokenised and in lower case already."""
    splits: Splits = {}
    for split, file in (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "test.tsv")):
        columns = (line.split("\t") for line in read_lines(files[file]))
        splits[split] = [{"text": text, "label": ("negative", "positive")[int(label)]} for text, label in columns]
    return splits


def convert_tweeteval_hate(files: Files) -> Splits:
    """Text and label lines joined; rows without text are dropped."""
    return _convert_tweeteval(files, ("not-hate", "hate"))


def convert_tweeteval_emotion(files: Files) -> Splits:
    """Text and label lines joined."""
    return _convert_tweeteval(files, ("anger", "joy", "optimism", "sadness"))


def _convert_tweeteval(files: Files, labels: Sequence[str]) -> Splits:
    return {
        split: [
            {"text": text.strip(), "label": label}
            for text, label in read_tweeteval(files, part, labels)
            if text.strip()
        ]
        for split, part in _VAL.items()
    }


def convert_arxiv_category(files: Files) -> Splits:
    """Title and abstract of a table whose last column names the split; authors and comment are dropped."""
    splits: Splits = {split: [] for split in SPLITS}
    for paper in csv.DictReader(io.StringIO(files["arxiv_lite.csv"].decode(), newline="")):
        split = {"val": "validation"}.get(paper["split"], paper["split"])
        title, abstract = (" ".join(paper[column].split()) for column in ("title", "summary"))
        splits[split].append({"text": title, "text_pair": abstract, "label": paper["category"]})
    return splits


def convert_twitter_sentiment(files: Files) -> Splits:
    """All tweets of SemEval 2013 to 2016 as train; validation and test are those of TweetEval.

    Dropped from train, taking the files in the order of their names: tweets with the words of a tweet in
    validation, test or earlier in train, and tweets with the id of an earlier one.
    """
    splits: Splits = {
        split: [
            {"text": _clean_tweet(text), "label": label}
            for text, label in read_tweeteval(files, part, ("negative", "neutral", "positive"))
        ]
        for split, part in (("validation", "val"), ("test", "test"))
    }
    seen_words = {_words(str(row["text"])) for rows in splits.values() for row in rows}
    seen_ids: set[str] = set()
    train: list[Row] = []
    for file in sorted(files):
        if not file.endswith(".tsv"):
            continue
        for line in read_lines(files[file]):
            identifier, label, tweet = line.split("\t")[:3]  # one file has an empty fourth column
            text = _clean_tweet(tweet)
            words = _words(text)
            if words in seen_words or identifier in seen_ids:
                continue
            seen_words.add(words)
            seen_ids.add(identifier)
            train.append({"text": text, "label": label})
    return {"train": train, **splits}


def _clean_tweet(text: str) -> str:
    """Decodes Unicode and HTML escapes, writes @names as @user, drops links, collapses white space."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    text = re.sub(r"@\w+", "@user", html.unescape(text))
    return " ".join(word for word in text.split() if not word.startswith("http"))


def convert_mrpc(files: Files) -> Splits:
    """Pairs of news sentences with or without the same meaning; a tenth of the training pairs becomes validation.

    Dropped from train: rows without an id, which the origin has added. Within each label the rows whose words have the
    smallest SHA-256 are the validation; no two rows have the same words.
    """
    splits: Splits = {}
    for split in ("train", "test"):
        rows: list[Row] = []
        for line in files[f"msr_paraphrase_{split}.txt"].decode("utf-8-sig").splitlines()[1:]:
            same, first_id, _, text, text_pair = line.split("\t")
            if first_id != "-1":
                label = ("not_equivalent", "equivalent")[int(same)]
                rows.append({"text": text.strip(), "text_pair": text_pair.strip(), "label": label})
        splits[split] = rows
    carved: set[int] = set()
    for label in ("equivalent", "not_equivalent"):
        ordered = sorted(
            (hashlib.sha256(_words(f"{row['text']} {row['text_pair']}").encode()).digest(), number)
            for number, row in enumerate(splits["train"])
            if row["label"] == label
        )
        carved |= {number for _, number in ordered[: round(len(ordered) / 10)]}
    train = list(enumerate(splits["train"]))
    return {
        "train": [row for number, row in train if number not in carved],
        "validation": [row for number, row in train if number in carved],
        "test": splits["test"],
    }


def convert_stsb(files: Files) -> Splits:
    """Genre, file, year, id, score and two sentences, separated by tabs; some rows name their origins after that."""
    return {
        split: [
            {"text": text.strip(), "text_pair": text_pair.strip(), "score": float(score)}
            for score, text, text_pair in (line.split("\t")[4:7] for line in read_lines(files[f"sts-{part}.csv"]))
        ]
        for split, part in _DEV.items()
    }


def convert_goemotions(files: Files) -> Splits:
    """Text, numbers of its labels with commas between, and the id of the comment; `labels.txt` names the labels."""
    names = read_lines(files["labels.txt"])
    splits: Splits = {}
    for split, part in _DEV.items():
        columns = (line.split("\t") for line in read_lines(files[f"{part}.tsv"]))
        splits[split] = [
            {"id": comment, "text": text.strip(), "labels": [names[int(number)] for number in numbers.split(",")]}
            for text, numbers, comment in columns
        ]
    return splits


def convert_sib200(files: Files) -> Splits:
    """Number, topic and sentence, separated by tabs; a number is the same sentence in every language."""
    splits: Splits = {}
    for split, part in _DEV.items():
        table = csv.DictReader(io.StringIO(files[f"{part}.tsv"].decode(), newline=""), delimiter="\t")
        splits[split] = [
            {"id": row["index_id"], "text": " ".join(row["text"].split()), "label": row["category"]} for row in table
        ]
    return splits


def convert_wikiann(files: Files) -> Splits:
    """One row a sentence; each word comes with its language and a colon before it."""
    return {
        split: [
            {"tokens": [word.split(":", 1)[1] for word in words], "ner_tags": tags}
            for words, tags in read_conll(files[part])
        ]
        for split, part in _DEV.items()
    }


def _words(text: str) -> str:
    return "".join(re.findall(r"\w+", text.lower()))
