"""The application's packages, where they are installed beside another Python: ``app.python``, or the
virtual environment that is active.

What is installed there comes last on ``sys.path``, so that gworkers runs with its own packages.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from functools import cache
from pathlib import Path

from gworkers.config.load import Loaded
from gworkers.errors import ConfigError, Problem, one_line

#: Seconds that the other Python has to tell where its packages are.
PATIENCE = 20.0

_ASKED = "import json, sys; print(json.dumps([sys.version_info[:2], sys.path]))"


def put_on_path(loaded: Loaded) -> None:
    """Once. Raises ConfigError for an ``app.python`` that cannot be used; an active environment that
    cannot is left alone."""
    named, active = loaded.config.app.python, os.environ.get("VIRTUAL_ENV")
    if named is not None:
        problem = _put(str(loaded.folder / named) if os.sep in named else named)
        if problem is not None:
            raise ConfigError(Problem(loaded.document.where(("app", "python")), "app.python", problem))
    elif active and Path(active).resolve() != Path(sys.prefix).resolve():
        _put(str(Path(active, "bin", "python")))


@cache
def _put(python: str) -> str | None:
    """Why it cannot be done. Each Python is asked once."""
    try:
        done = subprocess.run([python, "-c", _ASKED], capture_output=True, text=True, timeout=PATIENCE, check=True, cwd="/")
        version, path = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"{python} does not run as a Python: {one_line(error)}"
    own = sys.version_info[:2]
    if tuple(version) != own:
        told = f"{python} is Python {version[0]}.{version[1]}, and this is {own[0]}.{own[1]}, which cannot use its packages"
        return f"{told}; pip install gworkers there, and start it from there"
    for folder in path:
        if Path(folder).name in ("site-packages", "dist-packages") and folder not in sys.path:
            site.addsitedir(folder)
    return None
