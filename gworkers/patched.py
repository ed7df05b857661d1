"""``python -m gworkers.patched``: the command in a process that gevent patches before anything else
is imported.

``executor: greenlet`` is started this way; see gworkers.cli.run.
"""

import os
import sys

if not sys.flags.safe_path and sys.path and os.path.samefile(sys.path[0] or ".", "."):
    sys.path.append(sys.path.pop(0))  # as gworkers.__main__ does

from gevent import monkey

monkey.patch_all()

from gworkers.__main__ import main  # noqa: E402 - nothing may be imported before the patch
from gworkers.handlers import alarms  # noqa: E402

if __name__ == "__main__":
    alarms.guard()
    main()
