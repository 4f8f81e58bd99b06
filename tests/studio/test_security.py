"""Nobody but the page of this studio is answered, and nothing outside its folder is read."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.studio.running_studio import TOKEN, Page, running_studio, speech, wav

from moonshine_tune.studio import server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("studio") / "project"
    (folder.parent / "secret.wav").parent.mkdir(exist_ok=True)
    (folder.parent / "secret.wav").write_bytes(wav(speech()))
    (folder.parent / "secret.txt").write_text("a secret", encoding="utf-8")
    with running_studio(folder) as started:
        yield started


def test_the_token_becomes_a_cookie_and_leaves_the_address(page: Page) -> None:
    status, headers, _ = page.send("GET", f"/?token={TOKEN}", headers={})
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    # A strict cookie does not follow a redirect from another site: the page loads itself.
    status, headers, content = page.send(
        "GET", f"/?token={TOKEN}", headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert status == 200 and b"refresh" in content and "set-cookie" in headers


@pytest.mark.parametrize("path", ["/", "/api/project", "/static/app.js", "/?token=wrong"])
def test_without_the_token_nothing_is_answered(page: Page, path: str) -> None:
    for headers in ({}, {"Cookie": f"moonshine-studio-{page.port}=x"}, {"Cookie": "=;=\x01"}):
        status, answer, content = page.send("GET", path, headers=headers)
        assert status == 403 and "set-cookie" not in answer
        assert b"token" in content and b"project" not in content


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_a_name_that_was_made_to_point_here_is_refused(page: Page, host: str) -> None:
    headers = page.own | {"Host": host.format(port=page.port)}
    for path in ("/api/project", f"/?token={TOKEN}"):
        status, answer, _ = page.send("GET", path, headers=headers)
        assert status == 421 and "set-cookie" not in answer


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"]
)
def test_a_page_of_another_origin_is_refused(page: Page, origin: str) -> None:
    headers = page.own | {"Origin": origin.format(port=page.port)}
    for method, path in (("POST", "/api/undo"), ("DELETE", "/api/clips/a"), ("GET", "/api/clips")):
        status, answer, _ = page.send(method, path, b"{}", headers)
        assert status == 403
        assert not any(name.startswith("access-control") for name in answer)


def test_a_change_must_say_where_it_comes_from(page: Page) -> None:
    headers = {"Cookie": page.own["Cookie"]}
    assert page.send("POST", "/api/undo", b"{}", headers)[0] == 403
    assert page.send("GET", "/api/project", headers=headers)[0] == 200
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert page.send("POST", "/api/undo", b"{}", bearer)[0] == 200
    assert page.send("POST", "/api/undo", b"{}", {"Authorization": "Bearer é"})[0] == 403
    other = page.own | {"Sec-Fetch-Site": "same-site"}
    assert page.send("GET", "/api/project", headers=other)[0] == 403


def test_every_answer_forbids_what_the_page_does_not_need(page: Page) -> None:
    for path in ("/", "/api/project", "/nothing", "/api/clips?state=wrong"):
        _, headers, _ = page.send("GET", path)
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


_OUTSIDE = ("../secret.wav", "..%2Fsecret.wav", "%2e%2e/secret.wav", "/etc/passwd",
            "....//secret.wav", "..%5Csecret.wav", "%00", "a%2F..%2F..%2Fsecret.wav")  # fmt: skip


@pytest.mark.parametrize("name", _OUTSIDE)
def test_no_path_leads_out_of_the_project(page: Page, name: str) -> None:
    for path in (
        f"/static/{name}",
        f"/api/clips/{name}/audio",
        f"/api/runs/{name}",
        f"/api/runs/{name}/side-by-side",
        f"/runs/{name}/report.html",
        f"/api/exports/{name}/download",
        f"/api/packages/{name}/download",
    ):
        status, _, content = page.send("GET", path)
        assert status in (400, 404), path
        assert b"RIFF" not in content and b"root:" not in content


def test_a_dropped_file_stays_in_the_project(page: Page, tmp_path: Path) -> None:
    for name in ("../../x.wav", "/etc/x.wav", "..wav", "a\\..\\x.wav", ".hidden.wav"):
        query = f"name={name}&path=../../../../{tmp_path}"
        page.send("POST", f"/api/uploads?{query}", wav(speech(0.2)))
    folder = Path(page.ask("GET", "/api/project")["folder"])
    assert len(list((folder / "unlabelled").rglob("*.wav"))) >= 3
    assert [path.name for path in folder.parent.iterdir() if path.suffix == ".wav"] == [
        "secret.wav"
    ]
    assert list(tmp_path.iterdir()) == []
    assert page.refusal("POST", "/api/uploads?name=x.html", b"<html>")[0] == 400


def test_a_manifest_cannot_hand_out_files_that_are_no_audio(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("root: a secret", encoding="utf-8")
    (tmp_path / "secret.wav").write_text("root: a secret", encoding="utf-8")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "link.wav").symlink_to(secret)
    rows = [
        {"id": name, "audio": path, "text": "one"}
        for name, path in (("a", "../secret.txt"), ("b", "../secret.wav"), ("c", "link.wav"))
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with running_studio(folder) as page:
        for row in rows:
            status, _, content = page.send("GET", f"/api/clips/{row['id']}/audio")
            assert status == 400 and b"root:" not in content


def test_a_large_upload_is_refused_before_and_while_it_is_sent(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = page.own | {"Content-Length": str(2_000_000_000)}
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
        lines = [f"{name}: {value}" for name, value in stated.items()]
        head = "\r\n".join(["POST /api/uploads?name=a.wav HTTP/1.1",
                            f"Host: 127.0.0.1:{page.port}", *lines, "", ""])  # fmt: skip
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(1000)
    monkeypatch.setattr(server, "UPLOAD_BYTES", 100_000)
    folder = Path(page.ask("GET", "/api/project")["folder"])
    before = sorted(folder.rglob("*"))
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as connection:
        lines = [f"{name}: {value}" for name, value in page.own.items()]
        head = "\r\n".join(["POST /api/uploads?name=a.wav HTTP/1.1",
                            f"Host: 127.0.0.1:{page.port}", "Transfer-Encoding: chunked",
                            *lines, "", ""])  # fmt: skip
        connection.sendall(head.encode())
        for _ in range(3):
            connection.sendall(b"c350\r\n" + bytes(50_000) + b"\r\n")
        assert b" 413 " in connection.recv(1000)
    assert sorted(folder.rglob("*")) == before
    monkeypatch.setattr(server, "JSON_BYTES", 1000)
    assert page.refusal("POST", "/api/prompts", {"source": "list", "text": "a" * 2000})[0] == 413


def test_markup_is_text_everywhere(page: Page) -> None:
    markup = "<img src=x onerror=alert(1)>"
    (prompt,) = page.add_prompts(markup)
    answer = page.ask("POST", f"/api/takes?prompt={prompt}", wav(speech()))
    assert answer["clip"]["text"] == markup
    page.ask("PATCH", "/api/project", {"speaker": markup})
    page.ask("POST", f"/api/clips/{answer['clip']['id']}", {"text": f"{markup} & more"})
    for path in ("/api/prompts", "/api/clips?state=accepted", "/api/project"):
        _, headers, content = page.send("GET", path)
        assert headers["content-type"] == "application/json" and markup.encode() in content
    # Also where a message repeats what was sent.
    _, headers, _ = page.send("GET", f"/api/clips/{markup.replace(' ', '%20')}/audio")
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"text": 1}', b'{"text": NaN}', b'{"text": "\\ud800"}',
     b'{"text": ""}', b'{"text": "a", "keystrokes": true}', b"[" * 5000,
     json.dumps({"text": "a" * 3000}).encode()],
)  # fmt: skip
def test_a_wrong_request_is_answered_with_what_is_wrong(page: Page, body: bytes) -> None:
    (prompt,) = page.add_prompts("a wrong request")
    clip = page.ask("POST", f"/api/takes?prompt={prompt}&take=wrong-request", wav(speech()))["clip"]
    status, message = page.refusal("POST", f"/api/clips/{clip['id']}", body)
    assert status == 400 and "unexpected" not in message
    for path in ("/api/jobs", "/api/prompts", "/api/clips/batch"):
        assert page.refusal("POST", path, body)[0] == 400
