"""A PostgreSQL server of a test's own: Debian's programs, a folder that goes with the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.support import debian
from tests.support.broker import free_port
from tests.support.servers import until

INSTALLED = Path("/usr/lib/postgresql")

#: It refuses to run as root.
NOBODY = 65534


class Postgres:
    """``url`` is where it listens, with the database ``postgres`` and no password. Raises
    debian.NotHere."""

    def __init__(self) -> None:
        self._environment = {**os.environ}
        installed = sorted(INSTALLED.glob("*/bin/initdb"))
        if not installed:
            files = debian.unpacked("postgresql", whole=True)
            installed = sorted(files.glob("usr/lib/postgresql/*/bin/initdb"))
            self._environment |= debian.libraries(files)
        self._programs = installed[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="gworkers-postgres-"))
        os.chmod(self._folder, 0o755)
        self._data = self._folder / "data"
        self._user = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}
        if self._user:
            os.chown(self._folder, NOBODY, NOBODY)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N", "--locale=C", "-E", "UTF8")
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=self._environment,
            **self._user,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data), *(f"--{name}={value}" for name, value in options.items())]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                **self._user,  # type: ignore[call-overload]
            )
        until(self._listens, 30, "PostgreSQL")

    def _listens(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def connections(self) -> int:
        """How many clients are connected beside this one."""
        import psycopg

        with psycopg.connect(self.url) as connection:
            row = connection.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'").fetchone()
            assert row is not None
            return int(row[0]) - 1

    def halt(self) -> None:
        """End it at once, and every connection with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """End it without a last word, as a crash of its own would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
