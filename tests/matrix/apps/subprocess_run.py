"""subprocess: a child for each message."""

import subprocess


def handle(value: str) -> str:
    return subprocess.run(["expr", value, "*", "2"], capture_output=True, text=True, check=value != "0").stdout.strip()
