"""Passwords and access tokens, masked wherever a text is recorded, logged or shown.

A secret is recognized by its place (the password of a URL, the value of `password=` or `--token`),
by its form (the tokens of hosting services), or as the value of an environment variable such as
HF_TOKEN or PGPASSWORD.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"
# Shorter values of such variables are switches ("1", "false") or parts of common words.
MIN_LENGTH = 8
_VARIABLES = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "API_KEY",
              "APIKEY", "ACCESS_KEY", "PRIVATE_KEY")  # fmt: skip
# Variables that name a file or a switch, such as HF_TOKEN_PATH and TOKENIZERS_PARALLELISM.
_NO_SECRET = re.compile(r"TOKENIZERS?_|_(PATH|FILE|DIR|HELPER|URL|ENDPOINT)$")
_NAMES = (
    r"(?:(?:pass(?:word|wd|phrase)|secret|token|signature|(?:api|access)[_-]?key(?:[_-]?id)?)"
    r"|(?<![a-z])(?:pass|pwd|auth|sig|jwt|credentials?|private[_-]?key))"
)
_VALUE = r"(?![\s*]|//)[^\s&;,\"'#)}\]]+"
# All repetitions are bounded, so that a long text takes no longer than its length.
_PATTERNS = (
    # scheme://user:password@host. The password of a database may hold "@" and "/"; that of a web
    # address holds a "/" only where no port can be meant.
    (r"((?<!http)(?<!https)://[^/:@\s\"'<>]{0,256}:)[^\s\"'<>]{1,256}(?=@)", rf"\g<1>{MASK}"),
    (r"(://[^/:@\s\"'<>]{0,256}:)[^/\s\"'<>]{1,256}(?=@)", rf"\g<1>{MASK}"),
    (r"(://[^/:@\s\"'<>]{0,256}:)(?!\d{1,5}(?:[/?#]|$))[^@\s\"'<>]{1,256}(?=@)", rf"\g<1>{MASK}"),
    # https://token@host: a user without a password is a token.
    (r"(\bhttps?://)(?!\*)[^/:@\s\"'<>]{1,256}(?=@)", rf"\g<1>{MASK}"),
    # password=…, ?token=…, HF_TOKEN=…, --token=…, and in the form of libpq password='…'
    (rf"(?i)({_NAMES}=['\"])[^'\"]+", rf"\g<1>{MASK}"),
    (rf"(?i)({_NAMES}=){_VALUE}", rf"\g<1>{MASK}"),
    # {"token": "…"}, and "password: …" in a message
    (rf"(?i)({_NAMES}['\"]\s?:\s?['\"]?){_VALUE}", rf"\g<1>{MASK}"),
    (rf"(?i)((?:password|passphrase|secret)\s?:\s?){_VALUE}", rf"\g<1>{MASK}"),
    (r"(?i)(\b(?:bearer|basic)\s)(?=[\w.~+/=-]{0,80}\d)[\w.~+/=-]{12,}", rf"\g<1>{MASK}"),
    (r"\b(hf_)(?=[A-Za-z]{0,80}[A-Z0-9])[A-Za-z0-9]{8,}", rf"\g<1>{MASK}"),
    (r"\b(gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}", rf"\g<1>{MASK}"),
)
_COMPILED = tuple((re.compile(pattern), mask) for pattern, mask in _PATTERNS)
# One quick look before the patterns: nearly all texts have none of these.
_MARKS = re.compile(r"(?i)://|pass|pwd|secret|token|key|auth|cred|sig|bearer|basic|jwt|hf_|gh[pousr]_"
                    r"|pat[_-]|sk-|xox|akia")  # fmt: skip
_OPTION = re.compile(rf"(?i)^--?(?:[\w-]*-)?{_NAMES}$")


def secret_variables() -> dict[str, str]:
    """Values of environment variables that hold secrets, with the name of the variable."""
    return {
        value: name
        for name, value in os.environ.items()
        if len(value) >= MIN_LENGTH
        and any(word in name.upper() for word in _VARIABLES)
        and not _NO_SECRET.search(name.upper())
    }


def mask_secrets(text: str, values: Mapping[str, str] | None = None) -> str:
    """The text with `***` in the place of each secret.

    Args:
        values: secrets without a form of their own; those of `secret_variables` by default.
    """
    return _masked(text, secret_variables() if values is None else values)


def mask_values(value: Any) -> Any:
    """JSON-ready data with the secrets of all its texts masked."""
    return _masked_values(value, secret_variables())


def _masked(text: str, values: Mapping[str, str]) -> str:
    if _MARKS.search(text):
        for pattern, mask in _COMPILED:
            text = pattern.sub(mask, text)
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def _masked_values(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _masked(value, values)
    if isinstance(value, Mapping):
        return {key: _masked_values(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked_values(item, values) for item in value]
    return value


def mask_words(words: Sequence[str]) -> list[str]:
    """The words of a command, with the secrets in them and those that follow `--token` masked."""
    masked: list[str] = []
    for word in words:
        follows = bool(masked) and bool(_OPTION.match(masked[-1])) and not word.startswith("-")
        masked.append(MASK if follows else mask_secrets(word))
    return masked
