"""The standard library's own, over TLS."""

import os
import ssl
import urllib.request

context = ssl.create_default_context(cafile=os.environ["HTTPS_CA"])


def handle(value: str) -> str:
    with urllib.request.urlopen(f"{os.environ['HTTPS_URL']}?n={value}", timeout=10, context=context) as answer:
        return str(answer.read().decode())
