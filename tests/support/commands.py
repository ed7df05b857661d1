"""Running the command as a user types it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.servers import ENVIRONMENT, ROOT


def gworkers(
    *arguments: str,
    folder: Path = ROOT,
    given: str | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """What ``gworkers ARGUMENTS`` said and how it ended. given: its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "gworkers", *arguments],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENVIRONMENT, "COLUMNS": "100", **(env or {})},
    )
