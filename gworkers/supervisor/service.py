"""What a server does as a service, where no service manager does it: a pid file, and running as a
user of less rights."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path

from gworkers.errors import UnavailableError, UsageError


class PidFile:
    """The id of this process in a file, for whoever sends it signals. It outlives an exec, which
    keeps the id."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self) -> None:
        """Raises UnavailableError when another process has it, or it cannot be written."""
        if self._read() == os.getpid():  # it was there before an exec, and may be in a folder of root's
            return
        other = self._other()
        if other is not None:
            raise UnavailableError(f"{self.path} says that process {other} runs already; stop that one, or name another file")
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "w") as file:
                file.write(f"{os.getpid()}\n")
            os.replace(fresh, self.path)
        except OSError as error:
            raise UnavailableError(f"the pid file {self.path} cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        """If it is this process's."""
        if self._read() == os.getpid():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _read(self) -> int | None:
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                return int(file.read(32))
        except (OSError, ValueError, OverflowError):
            return None

    def _other(self) -> int | None:
        """Another process whose id stands there and that lives."""
        pid = self._read()
        if pid is None or pid <= 1 or pid == os.getpid():
            return None
        try:
            os.kill(pid, 0)
        except PermissionError:
            return pid
        except (OSError, OverflowError):
            return None
        return pid


def become(user: str | None, group: str | None) -> None:
    """Give up the rights of root for those of a user, and of his group where no other is named.
    Nothing happens to a process that is that user already. Raises UsageError for names that there are
    not, UnavailableError for who may not."""
    if user is None and group is None:
        return
    known = _user(user) if user is not None else None
    gid = _group(group) if group is not None else known.pw_gid if known is not None else os.getgid()
    uid = known.pw_uid if known is not None else os.getuid()
    if (os.getuid(), os.getgid()) == (uid, gid):
        return
    if os.geteuid() != 0:
        raise UnavailableError("only root can become another user or group; start it as root, or leave --user and --group out")
    if known is not None:
        os.initgroups(known.pw_name, gid)
    else:
        os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    for needed in (os.__file__, __file__):
        if not os.access(needed, os.R_OK):
            raise UnavailableError(
                f"the user {user or uid} may not read {os.path.dirname(needed)}, which gworkers runs on; have it in a folder that others "
                "may read, or start it as that user"
            )
    if known is not None:
        os.environ.update(HOME=known.pw_dir, USER=known.pw_name, LOGNAME=known.pw_name)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime is not None and not os.access(runtime, os.W_OK):  # root's
        del os.environ["XDG_RUNTIME_DIR"]


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UsageError(f"there is no user {name}") from None


def _group(name: str) -> int:
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {name}") from None
