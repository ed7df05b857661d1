"""``python -m gworkers``, and the command ``gworkers``."""

import os
import signal
import sys

# ``python -m`` looks for every module in the working directory first. What lies there by chance (a
# click.py, an http.py) is not to take the place of what is installed; the application's own modules
# are in ``app.path``.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path and os.path.samefile(sys.path[0] or ".", "."):
    sys.path.append(sys.path.pop(0))


def main() -> None:
    """Run the command line. From the first moment on a signal ends it with 0: nothing has begun."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(0))
    from gworkers.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
