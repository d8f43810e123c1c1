"""Public data sets by pinned origin and checksum: what `mtl-hf data NAME --to data` downloads.

Each data set is read from a public GitHub repository at one commit and turned into JSON lines,
`<to>/<name>/{train,validation,test}.jsonl`: one row a line with a string `id`, labels as names (a score is a number)
and BIO tags.
The catalog holds the SHA-256 of every resulting file, so a figure measured on them can be measured anywhere.

Notable: the rows are checked, not only the transfer, so a converter (`converters.py`) cannot change a byte unnoticed.
Nothing is sampled or shuffled; every split is the one of its origin, but for the validation rows of mrpc, which its
origin does not set apart. A folder appears whole or not at all. The data are not part of this package: read
`DataSet.license` before any use beyond research. The tweets contain abusive language.
"""

import csv
import difflib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

from . import converters
from .converters import SPLITS, Files, Row, Splits

logger = logging.getLogger(__name__)

RAW_GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Origin:
    """Where some files of a data set are published."""

    repository: str
    """Owner and name on GitHub."""
    commit: str
    """Full hash (40 hexadecimal digits), so that the files cannot change."""
    folder: str
    """Path inside the repository that all `files` share; empty where they lie at its top."""
    files: tuple[str, ...]
    """Paths inside `folder`; a converter gets the contents under these names."""


@dataclass(frozen=True)
class DataSet:
    """One entry of the catalog."""

    origins: tuple[Origin, ...]
    """Every file the converter needs; no two share a name."""
    license: str
    """The licence as the origin states it."""
    convert: Callable[[Files], Splits]
    """Pure function from the published files to the rows of each split."""
    sha256: Mapping[str, str]
    """Split -> checksum of its JSON lines."""


def download(name: str, to: str | Path, *, base_url: str = RAW_GITHUB) -> Path:
    """Downloads one data set of the catalog, converts it and checks the result.

    Nothing is written before every checksum agrees, and the folder is moved into place as a whole. A folder
    that is already there with the right files is left alone, without a connection; one with other files is
    never touched. Proxies are taken from the usual environment variables.

    Args:
        name: A key of `CATALOG`.
        to: Folder under which `<name>/{train,validation,test}.jsonl` is written; created if missing.
        base_url: Server that answers `<base_url>/<repository>/<commit>/<path>`, for a mirror or a test.

    Returns:
        The folder of the data set, `<to>/<name>`.

    Raises:
        ValueError: If `name` is not in the catalog, if the folder is there with other content, or if the
            downloaded files do not give the rows of the catalog.
        FileNotFoundError: If the server does not have a file (404).
        ConnectionError: If the server cannot be reached, answers with another error, or cuts the transfer.
    """
    if name not in CATALOG:
        raise ValueError(_unknown(name))
    data_set = CATALOG[name]
    target = Path(to) / name
    if os.path.lexists(target):
        _check_existing(target, data_set)
        logger.info("%s is already there with the right checksums: nothing downloaded.", target)
        return target
    contents = _convert(name, data_set, _fetch_all(name, data_set, base_url))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as temporary:
        folder = Path(temporary) / name
        folder.mkdir()  # with the usual permissions: the temporary folder is readable by its owner only
        for split, content in contents.items():
            (folder / f"{split}.jsonl").write_bytes(content)
        os.replace(folder, target)
    rows = ", ".join(f"{len(content.splitlines()):,} {split}" for split, content in contents.items())
    logger.info("%s: %s rows. Licence: %s.", target, rows, data_set.license)
    return target


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f"Did you mean '{nearest[0]}'? " if nearest else ""
    return f"`name`: '{name}' is not in the catalog. {hint}Known: {', '.join(CATALOG)}."


def _check_existing(target: Path, data_set: DataSet) -> None:
    contents = {split: path.read_bytes() for split in data_set.sha256 if (path := target / f"{split}.jsonl").is_file()}
    if differences := _differences(contents, data_set):
        raise ValueError(
            f"'{target}' is already there with other content ({differences}): "
            "move or delete it to download it again, or choose another folder as `to`."
        )


def _differences(contents: Mapping[str, bytes], data_set: DataSet) -> str:
    """Describes missing splits and wrong checksums of `contents` (split -> JSON lines); empty if there are none."""
    differences = []
    for split, expected in data_set.sha256.items():
        if split not in contents:
            differences.append(f"{split}.jsonl is missing")
        elif (found := hashlib.sha256(contents[split]).hexdigest()) != expected:
            differences.append(f"{split}.jsonl has sha256 {found}, expected {expected}")
    return "; ".join(differences)


def _convert(name: str, data_set: DataSet, files: Files) -> dict[str, bytes]:
    """The JSON lines of each split, checked against the catalog."""
    try:
        contents = {split: _to_json_lines(rows) for split, rows in data_set.convert(files).items()}
    except (ValueError, LookupError, csv.Error) as error:  # an error page or half a file breaks the format
        raise ValueError(_unexpected(name, data_set, repr(error))) from error
    if differences := _differences(contents, data_set):
        raise ValueError(_unexpected(name, data_set, differences))
    return contents


def _unexpected(name: str, data_set: DataSet, found: str) -> str:
    pinned = " and ".join(f"{origin.repository}@{origin.commit}" for origin in data_set.origins)
    return (
        f"{name}: the files received are not those of {pinned} ({found}): "
        "try again; if it stays so, a proxy or the server at `base_url` changes files."
    )


def _to_json_lines(rows: Iterable[Row]) -> bytes:
    """One compact object a line; `id` is the place of the row in its split, where the origin gives it none."""
    lines = (
        json.dumps({"id": str(number), **row}, ensure_ascii=False, separators=(",", ":")) + "\n"
        for number, row in enumerate(rows)
    )
    return "".join(lines).encode()


# The way from the network


def _fetch_all(name: str, data_set: DataSet, base_url: str) -> dict[str, bytes]:
    import httpx2  # the HTTP client of huggingface_hub; slow to import

    files = {}
    headers = {"Accept-Encoding": "identity"}  # so that the size announced is the size of the file
    with httpx2.Client(follow_redirects=True, timeout=30.0, headers=headers) as client:
        for origin in data_set.origins:
            for file in origin.files:
                parts = (base_url.rstrip("/"), origin.repository, origin.commit, origin.folder, file)
                url = "/".join(filter(None, parts))
                files[file] = _fetch(client, url, f"{name}: {file}")
    return files


def _fetch(client: "httpx2.Client", url: str, description: str) -> bytes:
    import httpx2
    from huggingface_hub.utils.tqdm import tqdm

    progress: Callable[..., Any] = tqdm  # has no annotations
    content = bytearray()
    size = None
    try:
        with client.stream("GET", url) as response:
            if response.status_code == httpx2.codes.NOT_FOUND:
                raise FileNotFoundError(
                    f"{url} was not found (404): the repository has moved or is gone, or `base_url` has no copy of it."
                )
            if not response.is_success:
                status = f"{response.status_code} {response.reason_phrase}"
                raise ConnectionError(f"{url} answered {status}, expected 200 OK: try again later.")
            size = int(response.headers["content-length"]) if "content-length" in response.headers else None
            with progress(total=size, desc=description, unit="B", unit_scale=True, leave=False, disable=None) as bar:
                for chunk in response.iter_bytes():
                    content += chunk
                    bar.update(len(chunk))
    except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.ReadTimeout) as error:
        expected = "an unknown number of" if size is None else f"{size:,}"
        raise ConnectionError(
            f"{url} was cut off after {len(content):,} of {expected} bytes ({error}): try again."
        ) from error
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise ConnectionError(
            f"{url} could not be reached ({error or type(error).__name__}): "
            "check the network, the proxy settings and `base_url`, then try again."
        ) from error
    return bytes(content)


_TWEETEVAL_LICENSE = (
    "released without any restrictions but restrictions may apply to individual tasks (which are derived "
    "from existing datasets) or Twitter (main data source)"
)


def _tweeteval(task: str, parts: tuple[str, ...] = ("train", "val", "test")) -> Origin:
    files = tuple(f"{part}_{kind}.txt" for part in parts for kind in ("text", "labels"))
    return Origin("cardiffnlp/tweeteval", "4fbd22cd78421f05b1ecdb4fc5725bc7a7bd8f66", f"datasets/{task}", files)


def _sib200(language: str) -> Origin:
    files = ("train.tsv", "dev.tsv", "test.tsv")
    return Origin("dadelani/sib-200", "593cea88519930f776c1a4a1980b6a35b39dca57", f"data/annotated/{language}", files)


def _wikiann(language: str) -> Origin:
    commit = "db7ff3ca4ba1df39907f8bdc036a556fed5ecde7"
    return Origin("davidsbatista/NER-datasets", commit, f"WikiANN/{language}", ("train", "dev", "test"))


def _sha256(*checksums: str) -> dict[str, str]:
    """Those of train, validation and test by their split."""
    return dict(zip(SPLITS, checksums, strict=True))


CATALOG: dict[str, DataSet] = {
    "snips": DataSet(
        origins=(
            Origin(
                repository="monologg/JointBERT",
                commit="00324f60dda4a491b2913bc3065ae93966caea3f",
                folder="data/snips",
                files=(
                    "train/seq.in",
                    "train/seq.out",
                    "train/label",
                    "dev/seq.in",
                    "dev/seq.out",
                    "dev/label",
                    "test/seq.in",
                    "test/seq.out",
                    "test/label",
                ),
            ),
        ),
        license="Apache-2.0 (repository); none stated for the data by itself",
        convert=converters.convert_snips,
        sha256=_sha256(
            "468c7d5685b828c92ecce781698f67cacc04f7e9ba3d5eb844472f20c3bcac63",
            "0dbf246090c5e3bf5b5bc75559238456e287eddb97da6be977a85ca4df8bc86f",
            "4a31857536cdda4d8c7f454ee59369320c343202d1159a48828bbea8e492b897",
        ),
    ),
    "conll2003": DataSet(
        origins=(
            Origin(
                repository="synalp/NER",
                commit="c0ea07c81ec3512b5047dcd804b0ac2b10a3bdfc",
                folder="corpus/CoNLL-2003",
                files=("eng.train", "eng.testa", "eng.testb"),
            ),
        ),
        license=(
            "not stated for the data (CeCILL-C covers the software); "
            "the text is Reuters news: treat as research use only"
        ),
        convert=converters.convert_conll2003,
        sha256=_sha256(
            "aa1208d2f06bc11610d0d9527af175e282ca0f4092a06a5a9381240e1dfece6a",
            "91c3c12a9140e03ca679f24dc0437cdbae033babea946388677e46f9a52a78c2",
            "bbdf60c2c1c3fbd1e7cb6a865d9d4dfd9df0110dff115de49f972175df7d3882",
        ),
    ),
    "sst2": DataSet(
        origins=(
            Origin(
                repository="clairett/pytorch-sentiment-classification",
                commit="457ffd83de90a9d6d472d8ffc31bbffe40a8b236",
                folder="data/SST2",
                files=("train.tsv", "dev.tsv", "test.tsv"),
            ),
        ),
        license="not stated",
        convert=converters.convert_sst2,
        sha256=_sha256(
            "e562ed896d692a520750bc0fcd8ea9a95dc8cbb46ce79271747823a71e0dc008",
            "6c5bd3c2095c06b1e51c053719c155a57b1364d03625fb90704c472a16fcf3df",
            "f4ab392c881222a77b3d1dfde7bdaaf5b24ce8a5190621237d8feec9d7739804",
        ),
    ),
    "tweeteval_hate": DataSet(
        origins=(_tweeteval("hate"),),
        license=_TWEETEVAL_LICENSE,
        convert=converters.convert_tweeteval_hate,
        sha256=_sha256(
            "dc62618c05fd48c1a55d3995f84485e2801446b7082926d67b47c19c783766ba",
            "c6a66a3acc89f8b68d4cab9ebda38ab07befe1605661e795ea230e5455c7b26b",
            "a7102ffa58a1b96f69a26bbbd1a16b065c81a952e752669ef9d946a8a7328279",
        ),
    ),
    "tweeteval_emotion": DataSet(
        origins=(_tweeteval("emotion"),),
        license=_TWEETEVAL_LICENSE,
        convert=converters.convert_tweeteval_emotion,
        sha256=_sha256(
            "3fae43a08a1c6413413b3569b8dc72a0e029f26f6962eebd1e3d48eeb0f165cd",
            "8e463b19461cf2c1fadf50b4011eac000117b27155c0e2197c38f4ec76498613",
            "c8e7f9945e354f645dae7086791df4456177ec5970d0af52f465c8313b5a8b2f",
        ),
    ),
    "twitter_sentiment": DataSet(
        origins=(
            Origin(
                repository="cbaziotis/datastories-semeval2017-task4",
                commit="faeee5fd1c2cf38e32179a4676dff53ae01adfa8",
                folder="dataset/Subtask_A/downloaded",
                files=(
                    "twitter-2013dev-A.tsv",
                    "twitter-2013test-A.tsv",
                    "twitter-2013train-A.tsv",
                    "twitter-2014sarcasm-A.tsv",
                    "twitter-2014test-A.tsv",
                    "twitter-2015test-A.tsv",
                    "twitter-2015train-A.tsv",
                    "twitter-2016dev-A.tsv",
                    "twitter-2016devtest-A.tsv",
                    "twitter-2016test-A.tsv",
                    "twitter-2016train-A.tsv",
                ),
            ),
            _tweeteval("sentiment", ("val", "test")),
        ),
        license=(f"train: MIT (repository), none stated for the tweets; validation and test: {_TWEETEVAL_LICENSE}"),
        convert=converters.convert_twitter_sentiment,
        sha256=_sha256(
            "43da446462e58b12ebd921b3593881fe1a43d5cc79f9a1fbdb10aafd9cd0c883",
            "9d24eaedd206e1e266f736dc5d784d02f6a7e6668ffc4d86dbf090b6c00f5995",
            "94ee295122a8a455937f7107fb600bbbe7fe21a1a21b65ff19c263591e75d38b",
        ),
    ),
    "arxiv_category": DataSet(
        origins=(
            Origin(
                repository="AmirYunus/IS6751_project_arxiv_classifier",
                commit="cbcf9d2b20927a25bc0df5adf1285bc8f10c9e3c",
                folder="data",
                files=("arxiv_lite.csv",),
            ),
        ),
        license="not stated",
        convert=converters.convert_arxiv_category,
        sha256=_sha256(
            "6c0a5e6659a7d5ece84f9c12939cf8952d0ff8bdd51120568954e6bf6fa91a42",
            "c0263d19f331dd36c88d1f98354874f6571911c3b10a135ab08e9dd36e9989c5",
            "6de890cb8f02df541d18895d8f811eadf57e38b541a333de9033b2085cdce497",
        ),
    ),
    "scierc_ner": DataSet(
        origins=(
            Origin(
                repository="allenai/scibert",
                commit="06793f77d7278898159ed50da30d173cdc8fdea9",
                folder="data/ner/sciie",
                files=("train.txt", "dev.txt", "test.txt"),
            ),
        ),
        license="Apache-2.0 (repository); none stated for the data by itself",
        convert=converters.convert_scierc_ner,
        sha256=_sha256(
            "084b851fbacdb62b49c92b451feeb1d4600ff5569240f63de7e01958c4d70d20",
            "c2976812d23322b4b23ab5b86f5c15d8ae0c044e4e3040d28e0cf7c8fb6cf919",
            "3a53d84697c2f165964b0ac50bf96362e6edc5a2511b5013bf3d16028494faf8",
        ),
    ),
    "mrpc": DataSet(
        origins=(
            Origin(
                repository="Pzeyang/Paraphrase_Identification",
                commit="dc1755eb1a4755ca310f97209391f1f5c06e2fd1",
                folder="",
                files=("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"),
            ),
        ),
        license="GPL-3.0 (repository); none stated for the data, which comes from Microsoft Research",
        convert=converters.convert_mrpc,
        sha256=_sha256(
            "76ca3e7411c4aba14c85e16b0a07a06e7368cfbe28676b4d44ddd4530d05e866",
            "4c38683f920876ba61bb877e12b46bf9af6a7ccaf7e365e15b7c5d17a57f0012",
            "d0d059baf9966e6d634fea68b1d0185610b66b9c5163f2f2a128bbec6f475d18",
        ),
    ),
    "stsb": DataSet(
        origins=(
            Origin(
                repository="zhangzhenhu/Semantic-Texual-Similarity-Toolkits",
                commit="c55a72f51bd15a8bd75114247c06984b432050f9",
                folder="data/stsbenchmark",
                files=("sts-train.csv", "sts-dev.csv", "sts-test.csv"),
            ),
        ),
        license=(
            "scores CC BY-SA 4.0; each text source keeps its own licence (data/stsbenchmark/LICENSE.txt there); "
            "MSR sources need Microsoft Research terms"
        ),
        convert=converters.convert_stsb,
        sha256=_sha256(
            "42e7f5c15c6e41e61d550d56ea02080c08439c4d60621bb960518ee18770194a",
            "c124ddc619ac6d0cddd2b58bdcd65a04c2ae9bff71888c12428b796b2d86d7e4",
            "7eaae440bcf0c459b45f497b8438ce904c2bb6cdb9d713e9d7e3d441d5289042",
        ),
    ),
    "goemotions": DataSet(
        origins=(
            Origin(
                repository="monologg/GoEmotions-pytorch",
                commit="b75f9d3a8b76bc1060687925b04ca98a1b8ea66b",
                folder="data/original",
                files=("train.tsv", "dev.tsv", "test.tsv", "labels.txt"),
            ),
        ),
        license="Apache-2.0 (repository)",
        convert=converters.convert_goemotions,
        sha256=_sha256(
            "00904d85445ea6fe04681531571fab9c24edbece395e4baeafc42a37b2fda351",
            "e77c68357c91ea514c558a826bce3b9cc5bdd4f7652a29f8461a2ff75342d6e7",
            "491d85d6740715da0802a536a805437c89ad3c12e29265c16aeea20b844acd38",
        ),
    ),
    "sib200_de": DataSet(
        origins=(_sib200("deu_Latn"),),
        license="Apache-2.0 (repository)",
        convert=converters.convert_sib200,
        sha256=_sha256(
            "9d48b10fb52d53a5e72e4529571822f7ebb76df7e7572b21b43a33a468909ef8",
            "59a86376f119412d9e29f9902f6109e7546cccafebbf61c67bccbd580c66c612",
            "62613e8b84580bd5f13542f484f37e1d384a9c634961ddcfb49efac4c8015149",
        ),
    ),
    "sib200_fr": DataSet(
        origins=(_sib200("fra_Latn"),),
        license="Apache-2.0 (repository)",
        convert=converters.convert_sib200,
        sha256=_sha256(
            "11844ce6d0d82894c230f07583aa61ef416afc57d2754b05aa3c172259e0a634",
            "88f15779ce1949d4cadf49e7e07ee2b0a1149d5adaec4e782d9b3a53af4b565a",
            "be106f518fbcb7c367e4c86012c38a4631801022bd5227c4636d591dd48a1ffd",
        ),
    ),
    "wikiann_de": DataSet(
        origins=(_wikiann("de"),),
        license="not stated",
        convert=converters.convert_wikiann,
        sha256=_sha256(
            "ddd556f96432700481eabe2c78583b591cb60e84a98650fbe12f8fd87f25ef31",
            "091c8c706093cc252f6047d1eb927baf72a9c5ce5e632d89b75daccd3c549da6",
            "d3622887543abbb462ffd353f80fd0a451b5fc9c00a5f83d662b0803f5f349ef",
        ),
    ),
    "wikiann_fr": DataSet(
        origins=(_wikiann("fr"),),
        license="not stated",
        convert=converters.convert_wikiann,
        sha256=_sha256(
            "d205069c229fa092906ee97ad27ff603ed3ac15e62b3e0f9023bdc3de67fc178",
            "77a6808eaa440cc197fabde106fd0373e2e45aabf72b1618542109b95f942291",
            "ee47b27b3a005bb8800214890bfe45d42e93ade964ef920e4bb1d8015845fe31",
        ),
    ),
}
