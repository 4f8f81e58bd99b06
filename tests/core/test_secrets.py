"""Passwords and tokens in texts: masked by their place or form, or as a variable's value."""

import json
from pathlib import Path

import pytest

from moonshine_tune.ablation.study import without_password
from moonshine_tune.core.secrets import MASK, mask_secrets, mask_values, mask_words
from moonshine_tune.runs.records import RunRecord

_SECRET = "S3CRETpw"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{_SECRET}@127.0.0.1:9/db",
        f"postgresql://me:{_SECRET}/with/slashes@host/db",
        f"postgresql://me:p@ss{_SECRET}@host/db",
        f"mysql://:{_SECRET}@host",
        f"redis://:{_SECRET}@host:6379/0",
        f"sqlite:////tmp/t.db?password={_SECRET}",
        f"postgresql://host/db?user=me&sslpassword={_SECRET}&a=1",
        f"https://user:{_SECRET}@host/file.wav",
        f"https://{_SECRET}@github.com/a/b",
        f"https://host/file?token={_SECRET}&x=1",
        f"https://host/f?X-Amz-Date=1&X-Amz-Signature={_SECRET}",
        f"https://host/f?sv=1&sig={_SECRET}",
        f"https://host/f?api_key={_SECRET}",
        f"HF_TOKEN={_SECRET} moonshine-tune train",
        f"tracker failed: WANDB_API_KEY={_SECRET}",
        f"--hf-token={_SECRET}",
        f"host=a password='{_SECRET} with spaces' user=me",
        f'{{"token": "{_SECRET}", "a": 1}}',
        f"{{'password': '{_SECRET}'}}",
        f"Password: {_SECRET}",
        f"Authorization: Bearer {_SECRET}{_SECRET}",
        f"log in with hf_{_SECRET}abcdef",
        f"ghp_{_SECRET}abcdefgh",
        f"DSN=Server=x;Pwd={_SECRET};Uid=me",
    ],
)
def test_a_secret_is_masked(text: str) -> None:
    masked = mask_secrets(text)
    assert _SECRET not in masked and MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/a@b", "http://[::1]:80/x", "ssh://git@host/x", "git@host:a/b", "s3://b/k@x",
        "limits.tokens_per_second=6.5", "train.max_tokens=5", "tokenizer=a.json", "tokens: 5",
        "basic english words", "hf_transfer", "hf_hub_download", "author: Jane", "passed: 5",
        "compass=3", "key=value", "unexpected token: foo", "not JSON (Expecting value at column 5)",
        "next: moonshine-tune evaluate --adapter runs/a --manifest test.jsonl",
        "postgresql://me@host/db", "sqlite:////path/trials.db", "0123456789abcdef0123456789abcdef",
    ],
)  # fmt: skip
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert mask_secrets(text) == text


def test_the_value_of_a_secret_variable_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "correct horse")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "zxcvbnm1")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsehood")
    text = "correct horse zxcvbnm1 /home/me/token falsehood"
    assert mask_secrets(text) == f"{MASK} {MASK} /home/me/token falsehood"
    assert mask_values({"a": ["zxcvbnm1", 5, None]}) == {"a": [MASK, 5, None]}


def test_the_word_after_an_option_is_masked() -> None:
    after = ["--keyterms", "a.txt", "--password", "--json"]
    assert mask_words(["push", "--token", _SECRET, *after]) == ["push", "--token", MASK, *after]


def test_a_long_text_is_searched_line_by_line_and_a_long_line_is_left() -> None:
    text = f"token={_SECRET}\n" * 8_000
    assert _SECRET not in mask_secrets(text)
    long = "://a:" * 30_000 + "@"
    assert mask_secrets(long) == long


def test_no_record_holds_a_secret(tmp_path: Path) -> None:
    url = f"postgresql://me:{_SECRET}@host/db"
    record = RunRecord.model_validate(
        {
            "command": ["moonshine-tune", "ablate", "--storage", url],
            "settings": {"augment": {"noise": f"https://u:{_SECRET}@h/x"}},
            "error": f"OperationalError: {url}",
            "remarks": [f"HF_TOKEN={_SECRET}"],
        }
    )
    record.write(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert _SECRET not in text
    assert json.loads(text)["command"][-1] == "postgresql://me:***@host/db"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{_SECRET}@host/db",
        f"sqlite:////tmp/t.db?password={_SECRET}",
        f"postgresql://me@host/db?sslpassword={_SECRET}",
        f"postgresql://me:pa%40{_SECRET}@host/db",
    ],
)
def test_a_recorded_database_url_asks_for_its_password_again(url: str) -> None:
    recorded = without_password(url)
    assert _SECRET not in recorded and MASK in recorded
