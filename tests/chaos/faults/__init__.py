"""The faults, by the kind of thing that goes wrong. FAULTS has them all, by the name of their
function."""

from __future__ import annotations

from tests.chaos.faults import brokers, deployment, machine, master, network, processes, transactions
from tests.chaos.faults.registry import FAULTS, Fault, NotHere

__all__ = ["FAULTS", "Fault", "NotHere", "brokers", "deployment", "machine", "master", "network", "processes", "transactions"]
