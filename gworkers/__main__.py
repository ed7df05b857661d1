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
    """Run the command line. From the first moment on a signal that stops a server ends it with 0:
    nothing has begun. Those that a running server has other uses for do nothing yet."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: os._exit(0))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: None)
    from gworkers.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
