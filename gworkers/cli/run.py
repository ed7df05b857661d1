"""``gworkers run``: serve."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import click
import gevent.subprocess

import gworkers
from gworkers.admin import addresses
from gworkers.cli.common import configured, examples, given_of
from gworkers.config import env_file
from gworkers.config.load import Loaded, load
from gworkers.config.units import parse_duration
from gworkers.errors import Exit
from gworkers.kafka import embedded, green
from gworkers.supervisor import run_file
from gworkers.supervisor.service import PidFile, become
from gworkers.supervisor.signals import STOPS
from gworkers.supervisor.under_master import VARIABLE, UnderMaster


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _begin_anew(module: str) -> NoReturn:
    """Become a Python that runs ``module`` with the arguments of this one. Signals to stop wait until
    that one hears them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    env_file.take_back()
    os.execv(sys.executable, [*_command(module), *sys.argv[1:]])


def _command(module: str) -> list[str]:
    """A Python that runs ``module`` with the interpreter's options of this one, and looks for nothing
    in the working directory."""
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]  # options, then -m and a module, or a script
    options = own[:-2] if own[-2:-1] == ["-m"] else own[:-1]
    home = str(Path(gworkers.__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home not in sysconfig.get_paths().values() and home != paths[0]:  # a checkout, which may have been found as the working directory
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, *paths]))
    return [sys.executable, *options, *([] if "-P" in options else ["-P"]), "-m", module]


@click.command(
    epilog=examples(
        "gworkers -c conf/app.yaml",
        "gworkers run -c conf/app.yaml --set concurrency=128",
        "gworkers run -c conf/app.yaml --until-idle 5s",
    )
)
@configured
@click.option("--until-idle", callback=_seconds, metavar="DURATION", help="Stop when there was nothing left to do for so long.")
@click.option("--pidfile", type=click.Path(path_type=Path), help="Keep the process's id in this file while it runs.")
@click.option("--user", help="Started as root, become this user, by name or number.")
@click.option("--group", help="And this group; without it the user's.")
def run(file: Path, overrides: tuple[str, ...], until_idle: float | None, pidfile: Path | None, user: str | None, group: str | None) -> int:
    """Serve until asked to stop (the default command).

    SIGTERM and Ctrl-C let what runs finish, for shutdown.grace at the most; a second one ends the
    process at once, as QUIT does. HUP takes up a changed configuration, USR1 logs where each handler
    stands, USR2 opens log files anew, TSTP and CONT stop and go on taking messages.
    """
    pid_file = PidFile(pidfile.resolve()) if pidfile is not None and VARIABLE not in os.environ else None
    if pid_file is not None:
        pid_file.write()  # while it is root: /run is root's
    try:
        become(user, group)
        return _serve(file, overrides, until_idle, pid_file)
    except BaseException:
        if pid_file is not None:
            pid_file.remove()
        raise


def _serve(file: Path, overrides: tuple[str, ...], until_idle: float | None, pid_file: PidFile | None) -> int:
    loaded = load(file, overrides)
    alone = loaded.config.processes == 1 or VARIABLE in os.environ
    if alone and loaded.config.executor == "greenlet" and not green.patched():
        # The patch must come before every other import, so the process begins anew; its id stays
        # the same.
        _begin_anew("gworkers.patched")
    master = UnderMaster.found()
    if master is None and loaded.config.processes > 1:
        _become_master(loaded, file, overrides, until_idle, pid_file)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a handler prints is to be seen when it is printed
        sys.stdout.reconfigure(line_buffering=True)
    from gworkers.supervisor.ending import end_within
    from gworkers.supervisor.server import Server

    server = Server(
        loaded, until_idle=until_idle, file=file, given=given_of(file, overrides), check=lambda: _wrong(file, overrides), master=master
    )
    status = server.run()
    if server.begin_anew and status in (Exit.OK, Exit.UNSETTLED):
        _begin_anew("gworkers")
    if pid_file is not None:
        pid_file.remove()
    if server.log_held:  # Python's own end waits for it
        os._exit(status)
    end_within(server.grace_left, status)
    return status


def _become_master(loaded: Loaded, file: Path, overrides: tuple[str, ...], until_idle: float | None, pid_file: PidFile | None) -> NoReturn:
    """Become the master of several processes, a small program that has nothing of this one loaded."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    command = _command("gworkers")
    given = given_of(file, overrides)
    servers = loaded.config.kafka.bootstrap_servers
    if servers == "embedded":
        started = embedded.start(embedded.samples_of(loaded))
        servers = started.servers
        os.set_inheritable(started.process.stdin.fileno(), True)  # it ends when the master does
    idle = ["--until-idle", f"{until_idle}s"] if until_idle is not None else []
    plan = {
        "command": [*command, "run", *given, *idle],
        "check": [*command, "check", *given, "--plan"],
        "admin": [*command, "admin-of-master", *given] if loaded.config.admin.bind is not None else [],
        "page_at": addresses.page_at(loaded.config.admin.page and not (loaded.config.admin.bind or "").startswith(addresses.UNIX), "{}"),
        "processes": loaded.config.processes,
        "json": loaded.config.logging.format == "json",
        "until_idle": until_idle is not None,
        "grace": loaded.config.shutdown.grace,
        "servers": servers,
        "config": str(file.resolve()),
        "run_file": str(run_file.path_of(file)),
        "pid_file": str(pid_file.path) if pid_file is not None else None,
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # they wait until it hears them
    os.execv(sys.executable, [*_command("gworkers.supervisor.master"), json.dumps(plan)])


def _wrong(file: Path, overrides: tuple[str, ...]) -> str | None:
    """What ``gworkers check`` says against the configuration as it is now, in a process of its own:
    this one has the application's modules as they were. Blocks the calling greenlet."""
    done = gevent.subprocess.run([sys.executable, "-m", "gworkers", "check", *given_of(file, overrides)], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip()
