"""What a test needs of Debian's packages, unpacked into the checkout's cache: nothing is installed,
and no service is started."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.broker import ROOT, java_is_wanted

CACHE = ROOT / ".cache" / "debian"


class NotHere(Exception):
    """It cannot be had; the text says why."""


def unpacked(package: str, *, whole: bool = False) -> Path:
    """The folder with a package's files, ``usr`` and so on; ``whole``: with those of what it depends
    on and this machine has not. Fetched once a checkout. Raises NotHere."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise NotHere(f"{program} is not installed")
    folder = CACHE / package
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / "usr").is_dir():
            folder.mkdir(exist_ok=True)
            done = _download(package, folder, whole)
            if done.returncode:  # its lists may be old
                subprocess.run(["apt-get", "update"], capture_output=True)
                done = _download(package, folder, whole)
            if done.returncode:
                raise NotHere(f"the Debian package {package} cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
            for archive in folder.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
                archive.unlink()
    return folder


def libraries(*folders: Path) -> dict[str, str]:
    """The environment in which unpacked packages' programs find their libraries."""
    found = {str(path.parent) for folder in folders for path in folder.glob("**/x86_64-linux-gnu/**/*.so*")}
    return {"LD_LIBRARY_PATH": ":".join(sorted(found))}


@contextmanager
def or_skipped() -> Iterator[None]:
    """A fixture that needs what cannot be had: its tests are skipped; in CI it is a must."""
    try:
        yield
    except NotHere as error:
        if java_is_wanted():
            raise
        pytest.skip(str(error))


def _download(package: str, folder: Path, whole: bool) -> subprocess.CompletedProcess[str]:
    names = [package]
    if whole:
        told = subprocess.run(["apt-get", "install", "-s", "--no-install-recommends", package], capture_output=True, text=True)
        names = [line.split()[1] for line in told.stdout.splitlines() if line.startswith("Inst ")] or names
    return subprocess.run(["apt-get", "download", "-q", *names], cwd=folder, capture_output=True, text=True)
