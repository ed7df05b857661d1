"""``python -m gworkers``: the same as the command ``gworkers``."""

from gworkers.cli.main import main

if __name__ == "__main__":
    main()
