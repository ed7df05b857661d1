"""The applications of the servers under test, as source."""

from __future__ import annotations

APP = """
import collections, json, os, time
tries = collections.Counter()
def handle(value):
    begun = time.time()
    if tries[value["id"]] < value.get("fails", 0):
        tries[value["id"]] += 1
        raise ValueError("as it was asked to")
    if value.get("large"):
        return {"id": value["id"], "text": "x" * 2_000_000}
    room = bytearray(value.get("bytes", 0))
    time.sleep(value["ms"] / 1000)
    return {"id": value["id"], "key": value["key"], "pid": os.getpid(), "begun": begun}
"""


#: Put before APP: the process kills itself at its n-th commit of a transaction, at one of the
#: points of KILL_POINTS.
SUICIDE = """
import os, random, signal, threading, time
from gworkers.kafka import green

def install(point, left):
    producer = green.module().KafkaProducer
    begin, offsets, commit = producer.begin_transaction, producer.send_offsets_to_transaction, producer.commit_transaction
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def soon(most):
        def wait():
            time.sleep(random.random() * most)
            die()
        threading.Thread(target=wait, daemon=True).start()
    def due():
        install.left -= 1
        return install.left < 0
    install.left = left
    def begin_transaction(self):
        begin(self)
        if point == "open" and due():
            soon(0.1)
    def send_offsets_to_transaction(self, *arguments):
        if point == "before the offsets" and due():
            die()
        if point == "with the offsets" and due():
            soon(0.004)
        offsets(self, *arguments)
        if point == "before the commit" and due():
            die()
    def commit_transaction(self):
        if point == "with the commit" and due():
            soon(0.006)
        commit(self)
        if point == "after the commit" and due():
            die()
    producer.begin_transaction = begin_transaction
    producer.send_offsets_to_transaction = send_offsets_to_transaction
    producer.commit_transaction = commit_transaction

if os.environ.get("SUICIDE"):
    install(os.environ["SUICIDE"].split(":")[0], int(os.environ["SUICIDE"].split(":")[1]))
"""
KILL_POINTS = ("open", "before the offsets", "with the offsets", "before the commit", "with the commit", "after the commit")

#: A second group's handler, for results that are another one's input. Put beside APP.
RELAY = """
from app import handle as work

def handle(value):
    work({'id': 0, 'ms': 5, 'key': ''})
    return value
"""
