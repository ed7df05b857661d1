"""One browser for all tests of the page, and servers with something to see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import output, source, start  # noqa: F401 - fixtures
from tests.support import browser, debian


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with debian.or_skipped(), browser.chromium() as found:
        yield found


@pytest.fixture(scope="session")
def axe() -> Iterator[str]:
    with debian.or_skipped():
        yield browser.axe()


class Viewer:
    """A window. ``wrong``: what its console said that it should not."""

    def __init__(self, context: Any, base: str) -> None:
        self.base = base
        self.context = context
        self.page = context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("dialog", self._dialog)

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, path: str) -> Any:
        """The answer."""
        return self.page.goto(self.base + path, wait_until="load")

    @property
    def text(self) -> str:
        return str(self.page.locator("body").inner_text())


@pytest.fixture
def view(chromium: Any) -> Iterator[Any]:
    """Opens windows: ``view(address, **options of the context)``."""
    contexts = []

    def opened(address: str, **options: Any) -> Viewer:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        return Viewer(context, f"http://{address}")

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
