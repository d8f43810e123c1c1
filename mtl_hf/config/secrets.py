"""Keep secrets of a config out of files, tables, messages and logs.

Notable: secrets are found by their keys (`hub_token`, `token`, everything below `storage_options`). Their values are
remembered until the process ends, since they may also be in variables or in messages of libraries: `masked` replaces
them in any text. Files that are read again (`run.yaml`) have neither key nor value: a mask would be sent as a token.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"
_WORDS = "token|secret|password|passwd|credentials?|api_?key|access_?key|storage_options"
_SECRET = re.compile(rf"(.*_)?({_WORDS})", re.IGNORECASE)
# `key=value` anywhere except after `--label`, which names a head, and `key: value` at positions of YAML keys, in lines
# that a message quotes.
_KEY = rf"(?:\w*_)?(?:{_WORDS}|storage_options\.[\w.-]+)[\"']?"
_QUOTED = re.compile(
    rf"""(?P<key>(?:(?<!--label )\b{_KEY}\s*=|(?:^|[{{,])[\s"'-]*{_KEY}\s*:\s)\s*)"""
    r"""(?P<value>\{[^}\n]*\}?|"[^"\n]*"|[^\s,}\]]+)""",
    re.IGNORECASE | re.MULTILINE,
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_LEAST = 6  # least length of a value to mask in texts: shorter ones (true, us-1) may be ordinary words
_known: set[str] = set()


def is_secret(path: str) -> bool:
    """Whether the value of a dotted key is secret, by the key or a key above it.

    Names of tasks and sources do not count as keys.
    """
    section, *keys = path.strip().split(".")
    own = {"training": keys[:1], "model": keys[:1], "tasks": [], "sources": keys[1:]}
    looked_at = own.get(section, [section, *keys])
    return any(_SECRET.fullmatch(key) for key in looked_at)


def secrets_of(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each secret in a config's tree."""
    for key, value in tree.items():
        where = f"{path}.{key}" if path else str(key)
        if is_secret(where):
            yield where, value
        elif isinstance(value, Mapping):
            yield from secrets_of(value, where)


def drop_secrets(tree: dict[str, Any], path: str = "") -> None:
    """Remove the secrets from a config's tree, in place."""
    for key in list(tree):
        where = f"{path}.{key}" if path else str(key)
        if is_secret(where):
            del tree[key]
        elif isinstance(tree[key], dict):
            drop_secrets(tree[key], where)


def remember_secrets(tree: Mapping[str, Any]) -> None:
    """Remember the secret values of a tree whose variables are filled in, for `masked`."""
    for _, value in secrets_of(tree):
        _known.update(text for text in _texts(value) if len(text) >= _LEAST)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield str(value)


def masked(text: str) -> str:
    """Replace the values of all remembered secrets, and tokens of the Hub, by `***`."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, MASK)
    return _HUB_TOKEN.sub(MASK, text)


def masked_message(text: str) -> str:
    """Replace secrets by `***` in a message, which may quote a line of a config."""
    return _QUOTED.sub(lambda match: match["key"] + MASK, masked(text))


def masked_overrides(overrides: Iterable[str]) -> list[str]:
    """Overrides with masked secrets: `training.hub_token=***`."""
    shown = []
    for text in overrides:
        key, equals, value = text.partition("=")
        shown.append(f"{key}={MASK}" if equals and is_secret(key) else key + equals + masked_message(value))
    return shown


class MaskSecrets(logging.Filter):
    """A filter of log handlers that masks the secrets in each line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the line in place."""
        text = record.getMessage()
        if (shown := masked_message(text)) != text:
            record.msg, record.args = shown, None
        return True
