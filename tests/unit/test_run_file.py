"""What a server leaves for the other commands is believed only where it is this user's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gworkers.supervisor import run_file


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "app.yaml").touch()
    return tmp_path / "app.yaml"


def test_what_was_written_is_read_and_removed(config: Path) -> None:
    run_file.write(config, {"servers": "127.0.0.1:1"})
    facts = run_file.read(config)
    assert facts is not None
    assert (facts["servers"], facts["pid"]) == ("127.0.0.1:1", os.getpid())
    run_file.remove(config)
    assert run_file.read(config) is None


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"pid": "x", "servers": "a:1"}', '{"pid": -1, "servers": "a:1"}', "[" * 90_000])
def test_what_is_no_run_file_is_none(config: Path, content: str) -> None:
    run_file.write(config, {"servers": "127.0.0.1:1"})
    (file,) = config.parent.glob("gworkers-*/*.json")
    file.write_text(content)
    assert run_file.read(config) is None


def test_another_users_is_not_believed(config: Path) -> None:
    run_file.write(config, {"servers": "127.0.0.1:1"})
    (file,) = config.parent.glob("gworkers-*/*.json")
    elsewhere = config.parent / "elsewhere.json"
    elsewhere.write_text(json.dumps({"pid": os.getpid(), "servers": "evil:1"}))
    file.unlink()
    file.symlink_to(elsewhere)
    assert run_file.read(config) is None
    if os.getuid() == 0:
        file.unlink()
        file.write_text(elsewhere.read_text())
        os.chown(file, 65534, 65534)
        assert run_file.read(config) is None
        os.chown(file, 0, 0)
        assert run_file.read(config) is not None
        os.chown(file.parent, 65534, 65534)
        assert run_file.read(config) is None
