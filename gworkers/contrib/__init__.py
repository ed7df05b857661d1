"""What frameworks need around a handler, each in a module of its own, named in ``middleware``,
``hooks`` and ``app.setup`` by its dotted path. Each needs its extra: ``pip install gworkers[django]``.
"""

from __future__ import annotations

import os

#: Set by the server before the application is imported: how many messages a process handles at once.
CONCURRENCY = "GWORKERS_CONCURRENCY"


def concurrency() -> int:
    """How many handlers may run at once in this process; 1 where no server runs them."""
    return int(os.environ.get(CONCURRENCY, "1"))
