"""``manage.py gworkers``: the gworkers command with this project's settings.

    manage.py gworkers -c conf/app.yaml
    manage.py gworkers check -c conf/app.yaml

Without -c the configuration is that of the setting GWORKERS_CONFIG.
"""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):  # type: ignore[misc]
    """The process becomes the other program: with ``executor: greenlet`` that has to patch before
    Django is imported."""

    help = "Serve Kafka topics with this project's functions; all of the gworkers command."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as Django declares it)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("arguments", nargs=REMAINDER, help="of gworkers, as in gworkers --help")

    def run_from_argv(self, argv: list[str]) -> None:
        """Everything after the command's name is the other program's, options too."""
        if argv[2:3] in (["--help"], ["-h"]):
            super().run_from_argv(argv)
            return
        self.execute(arguments=argv[2:])

    def execute(self, *args: Any, **options: Any) -> None:
        arguments = list(options["arguments"])
        if not {"-c", "--config"} & {argument.partition("=")[0] for argument in arguments} and hasattr(settings, "GWORKERS_CONFIG"):
            arguments += ["-c", str(settings.GWORKERS_CONFIG)]
        os.environ["DJANGO_SETTINGS_MODULE"] = settings.SETTINGS_MODULE
        os.execv(sys.executable, [sys.executable, "-m", "gworkers", *arguments])
