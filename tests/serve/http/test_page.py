"""The page's files, as they are served."""

import contextlib

import httpx
import pytest

from ntm_serve.http.page import page_routes
from ntm_serve.testing import RunningSum, test_server

# What the policy must say, each for itself: a page may load from nobody else, and be framed by nobody.
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)


@contextlib.contextmanager
def serving(monkeypatch, folder):
    """HTTP to a server with that page."""
    monkeypatch.setattr("ntm_serve.app.page_routes", lambda: page_routes(folder))
    with test_server([RunningSum()]) as server, httpx.Client(base_url=server.http) as http:
        yield http


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A page as Vite builds one."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>ntm-serve</title>")
    (tmp_path / "assets" / "index-Ab12.js").write_text("export {};")
    (tmp_path / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path.parent / "secret").write_text("not the page's")
    with serving(monkeypatch, tmp_path) as http:
        yield http


def test_the_page_is_asked_for_each_time_and_its_parts_are_kept(built):
    page = built.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-cache"
    again = built.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    part = built.get("/assets/index-Ab12.js")
    assert "javascript" in part.headers["content-type"]
    assert part.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert built.get("/favicon.svg").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/assets/index-Ab12.js", "/assets/none.js"])
def test_everything_is_under_a_strict_policy(built, path):
    headers = built.get(path).headers
    said = headers["content-security-policy"].split("; ")
    assert set(POLICY) <= set(said)
    assert not [one for one in said if "unsafe" in one or "*" in one or "http" in one]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/assets/none.js", "/none", "/..%2fsecret", "/assets/..%2f..%2fsecret", "/assets/"])
def test_what_is_not_of_the_page_is_not_there_and_not_kept(built, path):
    answer = built.get(path)
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-cache"
    assert "not the page" not in answer.text


def test_where_there_is_no_page_the_answer_says_what_to_do(tmp_path, monkeypatch):
    with serving(monkeypatch, tmp_path / "none") as nothing:
        answer = nothing.get("/")
        assert answer.status_code == 404
        assert "make web" in answer.text
        assert nothing.get("/assets/x.js").status_code == 404
