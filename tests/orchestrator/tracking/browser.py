"""A real browser and a real MLflow page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.orchestrator.tracking.mlflow_server import MlflowServer

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def mlflow_page(uri: str) -> Iterator[str]:
    """`mlflow server` on a store; its address."""
    server = MlflowServer(uri)
    server.start()
    try:
        yield server.address
    finally:
        server.kill()


@contextmanager
def chromium(width: int = 1600, height: int = 1300) -> Iterator[Any]:
    """A page of headless Chromium (a Playwright page)."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        yield page
        browser.close()
