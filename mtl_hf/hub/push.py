"""Push a model to the Hub: which files are uploaded, and how.

Notable: only file names on a list are uploaded, so checkpoints, predictions (which contain texts of the data) and
pickles stay local. All files go in one commit, so a repository never contains half a model. The files are listed
before they are uploaded.
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

# The code that loads the model where mtl_hf is not installed.
CODE = tuple(sorted(path.name for path in (Path(__file__).parents[1] / "modeling").glob("[!_]*.py")))
# The only files that are uploaded: safetensors, JSON, text and Python source.
SENT = (
    CARD, "LICENSE", "LICENSE.txt", "LICENSE.md", "config.json", *CODE, "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "metrics.json", RUN_FILE,
)  # fmt: skip
# The call in the card that loads the model; its name is replaced by that of the repository.
_LOAD = re.compile(r"""((?:AutoModel|MultiTaskModel)\.from_pretrained\(")(?:[^"\\]|\\.)*""")
# Access tokens of the Hub; URLs with passwords or signatures.
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
    """Push a saved model to the Hub: weights, configuration, tokenizer, code, card, metrics and the run's YAML.

    Args:
        folder: A run folder, one of its `checkpoint-N`, or any folder written by `MultiTaskModel.save_pretrained`. It
            is not changed.
        repo: `owner/name`, or a name in your own account; created if missing.
        private: Whether a new repository is private; by default the setting of your account.
        token: An access token with write permission; by default `HF_TOKEN`, or the token of `hf auth login`.
        revision: The branch, created if missing; `main` by default.
        message: The commit message.
        dry_run: List the files that would be uploaded, without contacting the Hub.

    Returns:
        The repository's URL; with `dry_run`, its name.

    Raises:
        ValueError: The folder has no saved model, `repo` is not a valid name, or a file contains an access token.
        OSError: The Hub refused or could not be reached; the message has the command to try again.
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
    """Create a repository if it is missing; this checks that the Hub is reachable and that the token may write.

    Returns:
        Its full name.

    Raises:
        OSError: The Hub refused or could not be reached.
    """
    api = HfApi(library_name="mtl_hf", library_version=__version__)
    return _ask(
        lambda: api.create_repo(repo, private=private, token=token, exist_ok=True).repo_id,
        f"the Hub repository {repo} is not available",
    )


def push_command(folder: str | Path, repo: str, private: bool | None = None, revision: str | None = None) -> str:
    """The command that pushes a folder."""
    options = ["--private"] * bool(private) + (["--revision", revision] if revision else [])
    return shlex.join(["mtl-hf", "push", str(folder), repo, *options])


def files_to_send(folder: Path, repo: str) -> dict[str, Path | bytes]:
    """The files that a push uploads: name → path, or content for the card.

    Args:
        folder: See `push`.
        repo: The name of the model in the card's snippets.

    Raises:
        ValueError: The model in the folder is not complete, or a file contains an access token.
    """
    config = read_config(folder)
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    missing = [name for name in CODE if name not in found]
    if missing or "auto_map" not in config:
        raise ValueError(
            f"{folder} lacks the model code, because an older version saved it"
            f" ({', '.join(missing) or 'no `auto_map` in config.json'}): save it again with"
            " mtl_hf.MultiTaskModel.from_pretrained(folder).save_pretrained(folder)."
        )
    if not any(name.endswith(".safetensors") for name in found):
        raise ValueError(f"{folder} has no weights (model.safetensors).")
    # Other tokenizer formats are binary (SentencePiece), and tokenizer.json has the same content.
    if "tokenizer_config.json" not in found or ("tokenizer.model" in found and "tokenizer.json" not in found):
        raise ValueError(f"{folder} has no tokenizer that can be pushed (tokenizer_config.json and tokenizer.json).")
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
                f"{name} in {folder} contains an access token, or a URL with a password or signature: remove it."
                " Nothing was pushed."
            )
    return dict(sorted(files.items()))


def _list(folder: Path, repo: str, files: Mapping[str, Path | bytes]) -> None:
    sizes = {name: len(item) if isinstance(item, bytes) else item.stat().st_size for name, item in files.items()}
    kept = sorted(path.name for path in folder.iterdir() if path.name not in files)
    logger.info(
        "To push to %s: %d files of %s, %s bytes:\n%s%s",
        repo, len(files), folder, f"{sum(sizes.values()):,}",
        "\n".join(f"  {name:<40}{size:>14,}" for name, size in sizes.items()),
        f"\nNot pushed: {', '.join(kept)}." if kept else "",
    )  # fmt: skip


def _ask(question: Callable[[], str], failure: str, then: str = "") -> str:
    """Call the Hub and return its response; every failure becomes an `OSError` with a one-line message."""
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
