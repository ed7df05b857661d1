"""A real Chromium, from Debian's packages, unpacked into the checkout's cache and driven by
Playwright; and axe-core, which looks for what keeps people out."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.support import debian
from tests.support.broker import ROOT

AXE = "axe-core@4.11.0"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Raises debian.NotHere."""
    folder = debian.unpacked("chromium", whole=True)
    libraries = debian.libraries(folder)["LD_LIBRARY_PATH"]
    env: dict[str, str | float | bool] = {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{folder / 'usr/lib/chromium'}"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=folder / "usr/lib/chromium/chromium", args=["--no-sandbox", "--disable-gpu"], env=env
        )
        try:
            yield browser
        finally:
            browser.close()


def axe() -> str:
    """The script. Raises debian.NotHere."""
    folder = ROOT / ".cache" / AXE
    script = folder / "package" / "axe.min.js"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not script.exists():
            if shutil.which("npm") is None:
                raise debian.NotHere("npm is not installed")
            done = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise debian.NotHere(f"{AXE} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
            with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as archive:
                archive.extractall(folder, filter="data")
    return script.read_text()


def findings(page: Any, script: str) -> list[str]:
    """What axe-core finds on a page, by WCAG 2 AA and its good practice: a sentence each, with where.
    The page's own policy lets nobody put a script into it, so it is evaluated by the browser's
    tools."""
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {one['help']}, at {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]
