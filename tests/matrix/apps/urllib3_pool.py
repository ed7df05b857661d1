"""urllib3: a pool manager, without its own retries."""

import os

import urllib3

http = urllib3.PoolManager(maxsize=64, retries=False)


def end() -> None:
    http.clear()


def handle(value: str) -> str:
    answer = http.request("GET", os.environ["HTTP_URL"], fields={"n": value}, timeout=10.0)
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}")
    return answer.data.decode()
