"""What the machine allows this process: descriptors (files and connections) and threads, with both
numbers where they are too few."""

from __future__ import annotations

import errno
import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

from gworkers import memory
from gworkers.config.schema import Config
from gworkers.errors import UnavailableError

log = logging.getLogger(__name__)

#: Descriptors that a server needs beside those that are open when it starts: connections to a few
#: brokers, twice, its journal, pipes, and one to look things up with.
NEEDED = 24
#: As many more as each handler may want to open: its own connection, and a file now and then.
EACH_HANDLER = 2
#: Bytes of addresses that are left for other things than threads' stacks, and of a stack where the
#: system sets no limit (glibc's default on most machines).
LEFT = 128 * 2**20
STACK = 8 * 2**20


def check_descriptors(config: Config) -> None:
    """Raises UnavailableError when no server can live with so few descriptors; says it in the log when
    handlers may run short of them."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = _open_now() + NEEDED
    if allowed < needed:
        raise UnavailableError(
            f"this process may have {allowed} files and connections open (ulimit -n), and a server needs {needed}; raise the limit "
            "(LimitNOFILE= in a systemd unit, minfds in supervisord.conf)"
        )
    wanted = wanted_descriptors(config)
    if allowed < wanted:
        log.warning(
            "this process may have %d files and connections open (ulimit -n), and %d handlers that open some may need %d; raise the limit",
            allowed,
            config.most_concurrency,
            wanted,
        )


def wanted_descriptors(config: Config) -> int:
    """How many a server with so many handlers may come to want."""
    return _open_now() + NEEDED + EACH_HANDLER * config.most_concurrency


def _open_now() -> int:
    with suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 10


def exhausted(error: BaseException) -> str | None:
    """The sentence for an error that means a limit of the machine; None for any other."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"no more files and connections can be opened: {_open_now()} are open, this process may have {allowed} (ulimit -n); raise it"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"there is no space left on the device: {error.filename or 'a file'} cannot be written; make room"
    if isinstance(error, MemoryError):
        return "there is no memory left for this process; give it more, or lower concurrency or buffer.bytes"
    return None


def threads() -> str:
    """What limits the number of threads here, for a sentence."""
    found = []
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if allowed != resource.RLIM_INFINITY and os.getuid() != 0:
        found.append(f"this user may have {allowed} processes and threads (ulimit -u)")
    limit = _pids_max()
    if limit is not None:
        found.append(f"its control group may have {limit} (pids.max)")
    memory = resource.getrlimit(resource.RLIMIT_AS)[0]
    if memory != resource.RLIM_INFINITY:
        found.append(f"this process may have {memory >> 20} MiB of addresses (ulimit -v), of which each thread takes its stack (ulimit -s)")
    return "; ".join(found) or "the machine allows no more"


def room_for_threads() -> int | None:
    """For how many more threads' stacks this process may have addresses, with some left for everything
    else: where the last are used up by a stack, whatever asks next ends the process. None without a
    limit."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed == resource.RLIM_INFINITY:
        return None
    used = memory.addresses()
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return max(0, allowed - used - LEFT) // (stack if stack != resource.RLIM_INFINITY else STACK)


def _pids_max() -> int | None:
    """What the process's control group (of either version) allows; None without a limit."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "pids"):
                file = Path("/sys/fs/cgroup", controllers, path.lstrip("/"), "pids.max")
                if file.exists():
                    return int(file.read_text("ascii"))
    return None
