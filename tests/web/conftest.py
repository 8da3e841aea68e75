"""A real browser, a real server with the models of the zoo, and what a page must never do."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from web.looking import Visit

from ntm_serve.app import load_models
from ntm_serve.testing import test_server

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "models" / "zoo"
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
WAIT_S = 30
DESK = {"width": 1360, "height": 900}


def pytest_addoption(parser):
    parser.addoption("--pictures", type=Path, help="where to write the pictures of the documentation")


def missing(what):
    """Skipped at home; in CI nothing is missing."""
    assert os.environ.get("CI") != "true", what
    pytest.skip(what)


@pytest.fixture(scope="package")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium is missing (Debian package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def models():
    return load_models(ZOO, batch_max=8)


@pytest.fixture(scope="module")
def server(models):
    """Takes writes from the page."""
    with test_server(models, inspector="write") as running:
        yield running


@pytest.fixture
def visit(browser):
    """Opens pages, each in a browser of its own as far as what it keeps goes; at the end none broke a rule."""
    visits = []

    def opened(http, fragment="", **options):
        context = browser.new_context(**{"viewport": DESK, **options})
        context.set_default_timeout(WAIT_S * 1000)
        visits.append(Visit(context, http))
        visits[-1].go(fragment)
        return visits[-1]

    yield opened
    for one in visits:
        one.context.close()
    assert [fault for one in visits for fault in one.faults] == []


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core."""
    if not AXE.exists():
        missing("axe-core is missing: make check-web")
    return AXE.read_text()


@pytest.fixture(scope="session")
def pictures(request, tmp_path_factory):
    """Where pictures of the documentation go: with --pictures to their place, else to a folder that is forgotten."""
    folder = request.config.getoption("--pictures", default=None) or tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
