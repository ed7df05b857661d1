"""What the commands share that speak to a running server, which they find by its configuration."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gworkers.config.load import load
from gworkers.errors import UnavailableError, UsageError
from gworkers.supervisor import run_file

#: Seconds that the server has to answer.
PATIENCE = 5.0


class Running:
    """The server that runs a configuration. Raises UnavailableError when none does, or it has no admin
    address."""

    def __init__(self, file: Path, overrides: tuple[str, ...]) -> None:
        admin = load(file, overrides).config.admin
        facts = run_file.read(file)
        if facts is None:
            raise UnavailableError(f"no server runs {file}; start one with gworkers -c {file}")
        address = facts.get("admin")
        if not isinstance(address, str):
            raise UnavailableError(f"the server that runs {file} has no admin address; set admin.bind, for example to 127.0.0.1:0")
        self.address = address
        self._token = admin.token or admin.read_token

    def get(self, path: str) -> dict[str, Any]:
        """What a page says. Blocks; raises UnavailableError."""
        return self._ask("GET", path)

    def post(self, path: str, **query: object) -> dict[str, Any]:
        """Have something done, and what was answered. Blocks; raises UnavailableError, and UsageError
        for what the server does not take."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("POST", path + (f"?{urlencode(given)}" if given else ""))

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
                told: dict[str, Any] = json.load(answer)
                return told
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UnavailableError(f"the server at {self.address} cannot be asked: {reason}") from None

    def _refused(self, error: urllib.error.HTTPError) -> UnavailableError | UsageError:
        why = str(error.reason)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            why = json.load(error).get("why", why)
        if error.code == 400:
            return UsageError(why)
        if error.code == 404:
            return UnavailableError(f"the server at {self.address} knows no {error.url.rpartition('/')[2].partition('?')[0]}: {why}")
        return UnavailableError(f"the server at {self.address} cannot be asked: {why}")


def processes_of(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each process says, by its number; of one alone under 0."""
    found: dict[str, dict[str, Any]] = told.get("processes", {"0": told})
    return found
