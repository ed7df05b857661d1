"""ftplib: a connection for each file."""

import os
from ftplib import FTP
from io import BytesIO


def handle(value: str) -> str:
    with FTP(timeout=10) as ftp:
        ftp.connect("127.0.0.1", int(os.environ["FTP_PORT"]))
        ftp.login()
        ftp.storbinary(f"STOR {value}", BytesIO(value.encode()))
        found: list[bytes] = []
        ftp.retrbinary(f"RETR {value}", found.append)
    return str(int(b"".join(found)) * 2)
