"""PyMySQL: a connection for each thread, looked at before it is used."""

import os
import threading

import pymysql

local = threading.local()
connections: list[pymysql.connections.Connection] = []


def end() -> None:
    for connection in connections:
        if connection.open:
            connection.close()


def handle(value: str) -> str:
    connection = getattr(local, "connection", None)
    if connection is None:
        connection = local.connection = pymysql.connect(unix_socket=os.environ["MARIADB_SOCKET"], user="root")
        connections.append(connection)
    connection.ping(reconnect=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT CAST(%s AS SIGNED) * 2, SLEEP(0.002)", (value,))
        return str(cursor.fetchone()[0])
