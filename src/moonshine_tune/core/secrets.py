"""Passwords and access tokens, masked wherever a text is recorded, logged or shown.

A secret is recognized by its place (the password of a URL, the value of `password=` or `--token`),
by its form (the tokens of hosting services), or as the value of an environment variable such as
HF_TOKEN or PGPASSWORD.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_ENDS = ("pass", "password", "passwd", "passphrase", "pwd", "secret", "token", "signature", "key",
         "id", "auth", "sig", "jwt", "credential", "credentials")  # fmt: skip
_VALUE = r"(?![\s*]|//)[^\s&;,\"'#)}\]]+"


@dataclass(frozen=True)
class _Form:
    """A form of secrets: the first group stays, the rest of a match is masked.

    Attributes:
        marks: one of these is in every text that matches; nearly all texts have none.
        pattern: for the text in lower case. All repetitions are bounded, so that a long text takes
            no longer than its length.
        is_lower: whether it is; tokens have capitals.
    """

    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    is_lower: bool = True


_FORMS = (
    # scheme://user:password@host. The password of a database may hold "@" and "/"; that of a web
    # address holds a "/" only where no port can be meant.
    _Form(("://",), re.compile(
        r"((?<!http)(?<!https)://[^/:@\s\"'<>]{0,256}:)[^\s\"'<>]{1,256}(?=@)")),
    _Form(("://",), re.compile(r"(://[^/:@\s\"'<>]{0,256}:)[^/\s\"'<>]{1,256}(?=@)")),
    _Form(("://",), re.compile(
        r"(://[^/:@\s\"'<>]{0,256}:)(?!\d{1,5}(?:[/?#]|$))[^@\s\"'<>]{1,256}(?=@)")),
    # https://token@host: a user without a password is a token.
    _Form(("://",), re.compile(r"(https?://)(?!\*)[^/:@\s\"'<>]{1,256}(?=@)")),
    # password=…, ?token=…, HF_TOKEN=…, --token=…, and in the form of libpq password='…'
    _Form(tuple(f"{name}={mark}" for name in _ENDS for mark in "'\""),
          re.compile(rf"({_NAMES}=['\"])[^'\"]+")),
    _Form(tuple(f"{name}=" for name in _ENDS), re.compile(rf"({_NAMES}=){_VALUE}")),
    # {"token": "…"}, and "password: …" in a message
    _Form(tuple(f"{name}{mark}" for name in _ENDS for mark in "'\""),
          re.compile(rf"({_NAMES}['\"]\s?:\s?['\"]?){_VALUE}")),
    _Form(tuple(f"{name}{mark}" for name in ("password", "passphrase", "secret") for mark in " :"),
          re.compile(rf"((?:password|passphrase|secret)\s?:\s?){_VALUE}")),
    _Form(("bearer ", "basic "), re.compile(
        r"((?<![a-z])(?:bearer|basic)\s)(?=[\w.~+/=-]{0,80}\d)[\w.~+/=-]{12,}")),
    _Form(("hf_",), re.compile(r"(\bhf_)(?=[A-Za-z]{0,80}[A-Z0-9])[A-Za-z0-9]{8,}"),
          is_lower=False),
    _Form(("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "xoxa-", "xoxb-",
           "xoxp-", "AKIA"),
          re.compile(r"(\b(?:gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-|AKIA))[A-Za-z0-9_-]{12,}"),
          is_lower=False),
)  # fmt: skip
# No command, setting or message is as long. A transcript may be, and takes too long to search.
_LONGEST = 100_000
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_OPTION = re.compile(rf"^--?(?:[\w-]*-)?{_NAMES}$")


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
    if len(text) > _LONGEST and "\n" in text:
        return "\n".join(_masked(line, values) for line in text.split("\n"))
    for form in _FORMS if len(text) <= _LONGEST else ():
        # As long as the text, which `str.lower` is not for some letters.
        searched = text.translate(_LOWER) if form.is_lower else text
        if any(mark in searched for mark in form.marks):
            parts, end = [], 0
            for match in form.pattern.finditer(searched):
                parts += [text[end : match.end(1)], MASK]
                end = match.end()
            text = "".join([*parts, text[end:]])
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
        is_option = bool(masked) and bool(_OPTION.match(masked[-1].lower()))
        is_secret = is_option and not word.startswith("-")
        masked.append(MASK if is_secret else mask_secrets(word))
    return masked
