"""Prices orders, one at a time, and waits for a database meanwhile: the kind of code gworkers is for. It knows nothing of Kafka."""

import logging
import time

log = logging.getLogger(__name__)

PRICES = {"apple": 0.40, "bread": 2.80, "cheese": 6.50, "dates": 4.20, "eggs": 3.10}
_asked_before = set()


class UnknownProduct(Exception):
    """Nobody can price this, today or tomorrow."""


class DatabaseBusy(Exception):
    """It will work in a moment."""


def price(order):
    """What the order costs. An order with ``busy`` finds the database busy the first time; one with ``slow`` takes a second."""
    time.sleep(1.0 if order.get("slow") else 0.02)
    if order.get("busy") and order["order"] not in _asked_before:
        _asked_before.add(order["order"])
        raise DatabaseBusy("the database is busy")
    if order["product"] not in PRICES:
        raise UnknownProduct(f"no such product: {order['product']}")
    total = round(PRICES[order["product"]] * order["count"], 2)
    return {"order": order["order"], "customer": order["customer"], "total": total}
