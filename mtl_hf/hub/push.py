"""The push: which files of a model's folder are sent to the Hub, and how.

Notable: only names on a list are sent, so that checkpoints, predictions (which hold texts of the data) and pickles stay
here; all of it goes in one commit, so that a repository never holds half a model; what will be sent is listed before.
"""

import logging
import re
import shlex
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from .. import __version__
from ..saved.models import RUN_FILE, run_file
from ..training.arguments import check_repo
from .card import CARD, card, read_config

logger = logging.getLogger(__name__)

# What runs where we are not installed.
CODE = tuple(sorted(path.name for path in (Path(__file__).parents[1] / "modeling").glob("[!_]*.py")))
# All that is ever sent: safetensors, JSON, text and Python source.
SENT = (
    CARD, "LICENSE", "LICENSE.txt", "LICENSE.md", "config.json", *CODE, "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "metrics.json", RUN_FILE,
)  # fmt: skip
# A call that loads the model, as the card shows it; the name in it becomes the repository's.
_LOAD = re.compile(r"""((?:AutoModel|MultiTaskModel)\.from_pretrained\(")(?:[^"\\]|\\.)*""")
# Access tokens of the Hub; names with passwords, and signatures, in addresses.
_SECRET = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|://[^/\s:@]+:[^/\s@]+@|[?&](?:sig|signature|token|key|x-amz-[a-z]+)=", re.I
)


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> str:
    """Send a saved model to the Hub: weights, configuration, tokenizer, code, card, metrics and the run's YAML.

    Args:
        folder: A run's folder, one of its `checkpoint-N`, or any folder of `MultiTaskModel.save_pretrained`. Nothing in
            it is changed.
        repo: `owner/name`, or a name of your own; made if there is none.
        private: Whether a new repository is private; by default as your account has it.
        token: An access token that may write; by default `HF_TOKEN`, or that of `hf auth login`.
        revision: The branch, made if there is none; `main` by default.
        message: Of the commit.
        dry_run: List what would be sent, and ask the Hub nothing.

    Returns:
        The repository's URL; with `dry_run` its name.

    Raises:
        ValueError: No saved model in the folder, a name that cannot be a repository's, or a token in one of the files.
        OSError: The Hub refused, or could not be reached; the message has the command to try again with.
    """
    folder = Path(folder)
    check_repo(repo, "repo")
    files = files_to_send(folder, repo)
    if dry_run:
        _list(folder, repo, files)
        return repo
    api = HfApi(library_name="mtl_hf", library_version=__version__)

    def send() -> str:
        url = api.create_repo(repo, private=private, token=token, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(url.repo_id, branch=revision, token=token, exist_ok=True)
        sent = files_to_send(folder, url.repo_id)  # now with the full name in the card
        _list(folder, url.repo_id, sent)
        operations = [CommitOperationAdd(name, content) for name, content in sent.items()]
        title = message or f"{folder.resolve().name}, by mtl_hf {__version__}"
        api.create_commit(url.repo_id, operations, commit_message=title, token=token, revision=revision)
        return str(url)

    again = push_command(folder, repo, private, revision)
    url = _ask(send, f"{folder} is not on the Hub", f" Nothing is lost; push it later with: {again}")
    logger.info("Pushed to %s.", url)
    return url


def reserve(repo: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Make a repository where there is none, which shows that the Hub can be reached and that the token may write.

    Returns:
        Its full name.

    Raises:
        OSError: It did not work.
    """
    api = HfApi(library_name="mtl_hf", library_version=__version__)
    return _ask(
        lambda: api.create_repo(repo, private=private, token=token, exist_ok=True).repo_id,
        f"the Hub cannot be asked for {repo}",
    )


def push_command(folder: str | Path, repo: str, private: bool | None = None, revision: str | None = None) -> str:
    """The command that pushes a folder."""
    options = ["--private"] * bool(private) + (["--revision", revision] if revision else [])
    return shlex.join(["mtl-hf", "push", str(folder), repo, *options])


def files_to_send(folder: Path, repo: str) -> dict[str, Path | bytes]:
    """Name → file (or content, for the card) of all that a push sends.

    Args:
        folder: As `push` takes it.
        repo: The name that the card will load the model by.

    Raises:
        ValueError: There is no whole model in the folder, or one of the files holds an access token.
    """
    config = read_config(folder)
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    missing = [name for name in CODE if name not in found]
    if missing or "auto_map" not in config:
        raise ValueError(
            f"{folder} was saved by a version that did not bring the code along"
            f" ({', '.join(missing) or 'no `auto_map` in config.json'}): save it once more, with"
            " mtl_hf.MultiTaskModel.from_pretrained(folder).save_pretrained(folder)."
        )
    if not any(name.endswith(".safetensors") for name in found):
        raise ValueError(f"{folder} has no weights (model.safetensors).")
    # Other formats of a tokenizer are binary (SentencePiece's), and are contained in tokenizer.json.
    if "tokenizer_config.json" not in found or ("tokenizer.model" in found and "tokenizer.json" not in found):
        raise ValueError(f"{folder} has no tokenizer that can be sent (tokenizer_config.json and tokenizer.json).")
    files: dict[str, Path | bytes] = {
        name: path for name, path in found.items() if any(fnmatch(name, pattern) for pattern in SENT)
    }
    if (path := run_file(folder)) is not None:
        files[RUN_FILE] = path
    text = found[CARD].read_text(encoding="utf-8") if CARD in found else card(folder, repo)
    files[CARD] = _LOAD.sub(lambda match: match[1] + repo, text).encode("utf-8")
    for name in sorted({CARD, RUN_FILE, "config.json", "metrics.json"} & files.keys()):
        content = files[name]
        if _SECRET.search(content if isinstance(content, bytes) else content.read_bytes()):
            raise ValueError(
                f"{name} of {folder} holds an access token, or an address with a password or signature: remove it;"
                " nothing was sent."
            )
    return dict(sorted(files.items()))


def _list(folder: Path, repo: str, files: Mapping[str, Path | bytes]) -> None:
    sizes = {name: len(item) if isinstance(item, bytes) else item.stat().st_size for name, item in files.items()}
    kept = sorted(path.name for path in folder.iterdir() if path.name not in files)
    logger.info(
        "To %s go %d files of %s, %s bytes:\n%s%s",
        repo, len(files), folder, f"{sum(sizes.values()):,}",
        "\n".join(f"  {name:<40}{size:>14,}" for name, size in sizes.items()),
        f"\nNot sent: {', '.join(kept)}." if kept else "",
    )  # fmt: skip


def _ask(question: Callable[[], str], failure: str, then: str = "") -> str:
    """What the Hub answers; whatever goes wrong becomes an `OSError` of one line."""
    import httpx2  # the HTTP client of huggingface_hub; slow to import

    try:
        return question()
    except (OSError, httpx2.HTTPError, httpx2.InvalidURL, RuntimeError, ValueError, KeyError, TypeError) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:  # "Error while uploading ..."
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403):
            reason += " Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
        raise OSError(f"{failure}: {reason.rstrip('.')}.{then}") from error
