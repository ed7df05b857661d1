"""sqlite3: a connection for each thread, write-ahead log, immediate transactions."""

import os
import sqlite3
import threading

local = threading.local()


def handle(value: str) -> str:
    connection = getattr(local, "connection", None)
    if connection is None:
        connection = local.connection = sqlite3.connect(os.environ["SQLITE_FILE"], timeout=30, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE IF NOT EXISTS orders (n INTEGER PRIMARY KEY, price INTEGER)")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO orders VALUES (?, ?)", (int(value), int(value) * 2))
    found = connection.execute("SELECT price FROM orders WHERE n = ?", (int(value),)).fetchone()[0]
    connection.execute("COMMIT")
    return str(found)
