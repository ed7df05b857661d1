"""requests: one session for all threads."""

import os

import requests
from requests.adapters import HTTPAdapter

session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=64))


def end() -> None:
    session.close()


def handle(value: str) -> str:
    answer = session.get(os.environ["HTTP_URL"], params={"n": value}, timeout=10)
    answer.raise_for_status()
    return answer.text
