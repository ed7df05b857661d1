"""Makes and keeps the project's virtual environments. Standard library alone: it runs before
anything is installed.

An environment belongs to one lock file. It is whole when it holds a file with that lock file's
digest, which is written last, after the program was seen to start in it; without it, or with another
digest, it is made anew. A file lock keeps two that start at once out of each other's way.

pip runs isolated: of its settings only those that say where packages are had reach it. A ``target``
or ``user`` of somebody's pip.conf would put the packages elsewhere.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
UNAVAILABLE = 69


#: pip's settings that say where packages are had, and how.
WHERE = {
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "cert",
    "client-cert",
    "timeout",
    "retries",
    "keyring-provider",
}


def _digest(lock_file: Path) -> str:
    return hashlib.sha256(lock_file.read_bytes() + sys.version.encode()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _packages(lock_file: Path) -> list[str]:
    return [line.split()[0] for line in lock_file.read_text("utf-8").splitlines() if "==" in line and not line.startswith((" ", "#"))]


def _fail(text: str) -> NoReturn:
    _say(f"gworkers: {text}")
    sys.exit(UNAVAILABLE)


def _where_packages_are(python: Path) -> list[str]:
    """Options for an isolated pip: what its files and variables say of WHERE, and nothing else."""
    done = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in WHERE:
            found[key] = str(ast.literal_eval(value))
    options = []
    for key, value in found.items():
        if key == "no-index":
            options += ["--no-index"] if value.lower() in ("1", "true", "yes", "on") else []
        else:
            several = value.split() if key in ("extra-index-url", "find-links", "trusted-host") else [value]
            options += [part for one in several for part in (f"--{key}", one)]
    return options


def _try(python: Path) -> None:
    """Fail unless the program can be imported in this environment."""
    code = "import gworkers.cli.main, gworkers.supervisor.server"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(python), "-P", "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"Python ended with status {done.returncode}"])[-1]
        _fail(f"the environment {python.parent.parent} was made, and the program does not start in it: {last}")


def _install(python: Path, lock_file: Path) -> None:
    """pip install, with a line for every package that has come; the reason in one sentence when one
    cannot be had."""
    packages = _packages(lock_file)
    command = [str(python), "-m", "pip", "--isolated", "install", "--require-hashes", "--no-deps", "--disable-pip-version-check"]
    command += [*_where_packages_are(python), "-r", str(lock_file)]
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}  # pip's --isolated still reads this one and the machine's
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output: list[str] = []
    seen = 0
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        if line.startswith("Collecting "):
            seen += 1
            _say(f"  [{seen}/{len(packages)}] {line.split()[1]}")
        elif line.startswith("Installing collected"):
            _say("  installing")
    if process.wait() != 0:
        errors = [line.strip() for line in output if line.startswith("ERROR")] or [line.strip() for line in output[-1:]]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with status {process.returncode}"
        _fail(f"a package cannot be had: {reason} Is the package index reachable? Nothing half-made is kept; try again.")


def ensure(name: str, lock: str) -> Path:
    """The Python of the environment ``name`` (a folder of the checkout) for the lock file ``lock``;
    made if need be."""
    lock_file = ROOT / "requirements" / lock
    folder = ROOT / name
    mark = folder / "gworkers-lock"
    python = folder / "bin" / "python"
    wanted = _digest(lock_file)

    def whole() -> bool:
        return mark.exists() and mark.read_text("utf-8") == wanted and python.exists()

    if whole():
        return python
    if sys.version_info < (3, 11):
        _fail(f"gworkers needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}.")
    try:
        guard = open(ROOT / f"{name}.lock", "w")
    except OSError as error:
        _fail(
            f"the environment {folder} cannot be made: {error.strerror}: {error.filename}. Run it once as the user that the folder belongs "
            "to, or install the package into an environment of your own: pip install 'gworkers[embedded]'"
        )
    with guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{name} is being made by another process; waiting for it")
            fcntl.flock(guard, fcntl.LOCK_EX)
        if whole():
            return python
        begun = time.monotonic()
        _say(f"making {name} for requirements/{lock} (once, until the file changes)")
        try:
            if folder.exists():
                shutil.rmtree(folder)
            venv.create(folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            _fail(f"the environment {folder} cannot be made: {error}. Is the folder writable, and python3-venv installed?")
        _install(python, lock_file)
        _try(python)
        mark.write_text(wanted, "utf-8")
        _say(f"made {name} in {time.monotonic() - begun:.0f} s")
    return python


def run(python: Path, *arguments: str) -> None:
    """Become this Python; the checkout is where it looks for the package, the working directory is
    not. Does not return."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.execv(python, [str(python), "-P", *arguments])
