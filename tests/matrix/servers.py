"""The servers that the handlers speak to: real ones, each of them can be started anew in the
middle."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pymysql
import redis
from pymemcache.client.base import Client as Memcache

from tests.support import debian
from tests.support.broker import free_port
from tests.support.postgres import NOBODY, Postgres
from tests.support.secured import Authority
from tests.support.servers import until


class Server(Protocol):
    """env: what its handlers are told of it."""

    env: dict[str, str]

    def start(self) -> None: ...

    def restart(self) -> None: ...

    def connections(self) -> int:
        """How many clients it has, beside who asks."""

    def close(self) -> None: ...


class Program:
    """A child process that listens on a port. Ended by a signal, as an administrator would."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gworkers-matrix-"))
        os.chmod(self.folder, 0o777)
        self.port = free_port()
        self.env: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            environment = {**os.environ, **self.libraries()}
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True, **self.identity()
            )
        until(self.ready, 60, f"{type(self).__name__} to listen")

    def libraries(self) -> dict[str, str]:
        return {}

    def identity(self) -> dict[str, Any]:
        return {}

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def connections(self) -> int:
        return established(self.port)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def established(port: int) -> int:
    """How many connections to a port of this machine are open, by what the kernel says."""
    ends = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(ends) and state == "01" for _, local, _, state, *_ in lines)


class PostgreSQL:
    def __init__(self) -> None:
        self._postgres = Postgres()
        self.env = {"POSTGRES_URL": self._postgres.url}

    def start(self) -> None:
        self._postgres.start()

    def restart(self) -> None:
        self._postgres.kill()
        self._postgres.start()

    def connections(self) -> int:
        return self._postgres.connections()

    def close(self) -> None:
        self._postgres.close()


class MariaDB(Program):
    def __init__(self) -> None:
        super().__init__()
        self._files = debian.unpacked("mariadb-server", whole=True)
        self._socket = str(self.folder / "socket")
        self.env = {"MARIADB_SOCKET": self._socket}
        done = subprocess.run(
            [*self._base(), "--bootstrap", "--skip-grant-tables"],
            input=b"CREATE DATABASE IF NOT EXISTS mysql;\n",
            capture_output=True,
            env={**os.environ, **self.libraries()},
            **self.identity(),
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]

    def _base(self) -> list[str]:
        share = self._files / "usr/share/mysql"
        data = self.folder / "data"
        if not data.exists():
            data.mkdir()
            if os.getuid() == 0:
                os.chown(data, NOBODY, NOBODY)
        options = {"datadir": data, "lc-messages-dir": share, "character-sets-dir": share / "charsets", "socket": self._socket}
        switches = ["--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--max-connections=300", "--plugin-dir=/nowhere"]
        return [str(self._files / "usr/sbin/mariadbd"), "--no-defaults", *(f"--{key}={value}" for key, value in options.items()), *switches]

    def identity(self) -> dict[str, Any]:
        return {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}

    def libraries(self) -> dict[str, str]:
        return debian.libraries(self._files)

    def command(self) -> list[str]:
        return [*self._base(), "--skip-grant-tables"]

    def ready(self) -> bool:
        with suppress(pymysql.Error), pymysql.connect(unix_socket=self._socket, user="root"):
            return True
        return False

    def connections(self) -> int:
        with pymysql.connect(unix_socket=self._socket, user="root") as connection, connection.cursor() as cursor:
            cursor.execute("SHOW PROCESSLIST")
            return int(sum(row[1] == "root" for row in cursor.fetchall())) - 1


class Redis(Program):
    def __init__(self) -> None:
        super().__init__()
        self._files = debian.unpacked("redis-server", whole=True)
        self.env = {"REDIS_PORT": str(self.port)}

    def libraries(self) -> dict[str, str]:
        return debian.libraries(self._files)

    def command(self) -> list[str]:
        return [
            str(self._files / "usr/bin/redis-server"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self.folder),
        ]

    def connections(self) -> int:
        with redis.Redis(port=self.port) as client:
            return len(list(client.client_list())) - 1


class Memcached(Program):
    def __init__(self) -> None:
        super().__init__()
        self._files = debian.unpacked("memcached", whole=True)
        self.env = {"MEMCACHED_PORT": str(self.port)}

    def libraries(self) -> dict[str, str]:
        return debian.libraries(self._files)

    def command(self) -> list[str]:
        return [str(self._files / "usr/bin/memcached"), "-l", "127.0.0.1", "-p", str(self.port), "-u", "nobody"]

    def connections(self) -> int:
        client = Memcache(("127.0.0.1", self.port))
        try:
            return int(client.stats()[b"curr_connections"]) - self._own
        finally:
            client.close()

    def start(self) -> None:
        super().start()
        self._own = 0
        self._own = until(lambda: self.connections() or None, what="its own")  # those that it listens on, and who asks


class Http(Program):
    """HTTP and HTTPS; one answer in 200 is a 503, one in 300 a connection that is cut."""

    def __init__(self) -> None:
        super().__init__()
        authority = Authority(self.folder, "matrix")
        self._files = authority.issue("server")
        self._tls = free_port()
        self.env = {
            "HTTP_URL": f"http://127.0.0.1:{self.port}/",
            "HTTPS_URL": f"https://127.0.0.1:{self._tls}/",
            "HTTPS_CA": str(authority.file),
        }

    def command(self) -> list[str]:
        script = str(Path(__file__).parent / "http_server.py")
        return [sys.executable, script, str(self.port), str(self._tls), *map(str, self._files)]


class Smtp(Program):
    def __init__(self) -> None:
        super().__init__()
        self.env = {"SMTP_PORT": str(self.port)}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{self.port}", "-c", "aiosmtpd.handlers.Sink"]


class RabbitMQ(Program):
    """With an epmd of its own, which the Erlang VM would leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self._files = debian.unpacked("rabbitmq-server", whole=True)
        self._names = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self.env = {"RABBITMQ_PORT": str(self.port)}
        erlang = self._files / "usr/lib/erlang"
        (self._programs,) = erlang.glob("erts-*/bin")
        erl = self.folder / "erl"  # the package's own looks for its files where they would be installed
        where = f"ROOTDIR='{erlang}' BINDIR='{self._programs}' EMU=beam PROGNAME=erl"
        erl.write_text(f'#!/bin/sh\nexport {where}\nexec "$BINDIR/erlexec" "$@"\n')
        erl.chmod(0o755)

    def libraries(self) -> dict[str, str]:
        return {
            **debian.libraries(self._files),
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODENAME": f"matrix{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput",
        }

    def start(self) -> None:
        if self._epmd is None:
            self._epmd = subprocess.Popen([self._programs / "epmd"], env={**os.environ, **self.libraries()}, stdout=subprocess.DEVNULL)
        super().start()

    def command(self) -> list[str]:
        (home,) = self._files.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
        return [str(home / "sbin/rabbitmq-server")]

    def close(self) -> None:
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()


class Ftp(Program):
    def __init__(self) -> None:
        super().__init__()
        self.env = {"FTP_PORT": str(self.port)}

    def command(self) -> list[str]:
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        return [sys.executable, "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(self.port), "-d", str(files), "-w"]


class S3(Program):
    """moto's server; what it holds goes with it, so the bucket is made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.env = {"S3_URL": f"http://127.0.0.1:{self.port}"}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def start(self) -> None:
        import requests

        super().start()
        assert requests.put(f"{self.env['S3_URL']}/orders", timeout=30).ok


class Files:
    """Not a server: a folder."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="gworkers-matrix-")
        self.env = {"SQLITE_FILE": f"{self._folder}/orders.sqlite", "LOG_FILE": f"{self._folder}/orders.log"}

    def start(self) -> None:
        """It is there."""

    def restart(self) -> None:
        """Nothing restarts."""

    def connections(self) -> int:
        return 0

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


SERVERS: dict[str, type[Server]] = {
    "PostgreSQL": PostgreSQL,
    "MariaDB": MariaDB,
    "Redis": Redis,
    "memcached": Memcached,
    "HTTP": Http,
    "SMTP": Smtp,
    "RabbitMQ": RabbitMQ,
    "FTP": Ftp,
    "S3 (moto)": S3,
    "a file": Files,
}


def left(server: Server, patience: float = 10.0) -> int:
    """The connections that are left, after those that are about to go have gone."""
    deadline = time.monotonic() + patience
    while (count := server.connections()) > 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    return max(0, count)
