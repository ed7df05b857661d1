"""What the commands share that speak to a running server, which they find by its configuration."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gworkers.admin import addresses
from gworkers.config.load import load
from gworkers.errors import UnavailableError, UsageError
from gworkers.supervisor import run_file
from gworkers.text import safe

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
        try:
            with contextlib.closing(_Connection(self.address)) as connection:
                connection.request(method, path, headers=headers)
                answer = connection.getresponse()
                data = answer.read()
                if answer.status != 200:
                    raise self._refused(path, answer.status, answer.reason, data)
                told: dict[str, Any] = json.loads(data)
                return told
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnavailableError(f"the server at {self.address} cannot be asked: {_reason(error)}") from None

    def _refused(self, path: str, status: int, why: str, data: bytes) -> UnavailableError | UsageError:
        with contextlib.suppress(ValueError, AttributeError):
            why = json.loads(data).get("why", why)
        if status == 400:
            return UsageError(why)
        if status == 404:
            return UnavailableError(f"the server at {self.address} knows no {path.rpartition('/')[2].partition('?')[0]}: {why}")
        return UnavailableError(f"the server at {self.address} cannot be asked: {why}")


class _Connection(http.client.HTTPConnection):
    """HTTP over whatever the address is."""

    def __init__(self, address: str) -> None:
        unix = addresses.path_of(address) is not None
        super().__init__("localhost" if unix else address, timeout=PATIENCE)
        self._address = address

    def connect(self) -> None:
        self.sock = addresses.connected(self._address, PATIENCE)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or "it does not speak HTTP"


def processes_of(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each process says, by its number; of one alone under 0."""
    found: dict[str, dict[str, Any]] = told.get("processes", {"0": told})
    return found


def partitions_told(told: dict[str, Any]) -> str:
    """The partitions that something was done with, by all processes, for a sentence."""
    found = sorted(name for one in processes_of(told).values() for name in one["partitions"])
    return safe(", ".join(found)) or "no partition that is assigned now"
