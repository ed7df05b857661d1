"""The lower end of kafka-python's range: the tests that depend on its inside, run once more with
that version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT

#: What knows kafka-python's inside, or leans on what it does.
DEPENDING = [
    "tests/unit/test_blocks.py",
    "tests/unit/test_green.py",
    "tests/unit/test_options.py",
    "tests/integration/test_pipeline.py",
    "tests/integration/test_failures.py",
    "tests/integration/test_exactly_once.py",
]
NAMES = (
    "blocks or green or options or every_message or carried or too_large_is_split or refuses_for_good or dead_lettered or partition_added "
    "or committed_together or no_other_with_it or two_processes"
)


@pytest.fixture(scope="session")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the oldest kafka-python that setup.py allows."""
    folder = tmp_path_factory.mktemp("oldest")
    lock = ROOT / "requirements/oldest.txt"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--target", str(folder), "-r", str(lock)], check=True, timeout=120)
    return folder


def test_both_ends_are_the_ones_in_setup_py(oldest: Path) -> None:
    (wanted,) = [line for line in (ROOT / "setup.py").read_text().splitlines() if "kafka-python[" in line]
    assert ">=3.0.9,<3.1" in wanted
    assert "kafka-python==3.0.9" in (ROOT / "requirements/oldest.txt").read_text()


def test_the_oldest_version_passes(kafka_servers: str, oldest: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{oldest}{os.pathsep}{ROOT}", "GWORKERS_TEST_KAFKA": kafka_servers}
    version = subprocess.run(
        [sys.executable, "-c", "import kafka; print(kafka.__version__)"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert version.stdout == "3.0.9\n"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *DEPENDING, "-k", NAMES], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "passed" in done.stdout
