"""``python -m gworkers``, and the command ``gworkers``."""

import os
import signal


def main() -> None:
    """Run the command line. From the first moment on a signal ends it with 0: nothing has begun."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(0))
    from gworkers.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
