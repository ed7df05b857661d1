"""The entry point: ``gworkers [COMMAND] …``, where ``run`` is the command when none is named."""

from __future__ import annotations

import io
import signal
import sys
from typing import Any

import click

import gworkers
from gworkers.cli.admin_of_master import admin_of_master
from gworkers.cli.check import check
from gworkers.cli.config import config
from gworkers.cli.dead_letters import dead_letters
from gworkers.cli.doctor import doctor
from gworkers.cli.lag import lag
from gworkers.cli.operate import pause, quiet, resume, scale, stacks
from gworkers.cli.reset import reset
from gworkers.cli.run import run
from gworkers.cli.seek import seek
from gworkers.cli.send import send
from gworkers.cli.status import status
from gworkers.cli.tail import tail
from gworkers.cli.top import top
from gworkers.cli.try_route import replay, try_route
from gworkers.errors import ConfigError, Exit, GworkersError

EPILOG = """\b
Examples:
  gworkers -c conf/app.yaml                 serve; Ctrl-C drains and stops
  gworkers check -c conf/app.yaml           what is wrong with it, without Kafka
  gworkers tail priced -c conf/app.yaml -n 5

\b
Shell completion (bash; likewise zsh, fish):
  eval "$(_GWORKERS_COMPLETE=bash_source gworkers)"
"""


class _DefaultGroup(click.Group):
    """A group whose first argument may be missing: then ``run`` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in own and args[0] not in self.commands and args[0].startswith("-"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_DefaultGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=True,
)
@click.version_option(gworkers.__version__, prog_name="gworkers", message="%(prog)s %(version)s")
@click.pass_context
def gworkers_command(context: click.Context) -> None:
    """Concurrent workers between Kafka topics and ordinary synchronous functions."""
    if context.invoked_subcommand != "run":  # a server has handlers of its own, the other commands none
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


COMMANDS = (
    run,
    check,
    doctor,
    config,
    send,
    tail,
    lag,
    reset,
    seek,
    dead_letters,
    status,
    top,
    stacks,
    pause,
    resume,
    quiet,
    scale,
    try_route,
    replay,
    admin_of_master,
)

for command in COMMANDS:
    gworkers_command.add_command(command)


def main(args: list[str] | None = None) -> Any:
    """Run a command line; ends the process with one of the documented statuses."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale, nothing that is printed ends the process
            stream.reconfigure(errors="backslashreplace")
    try:
        status = gworkers_command.main(args, prog_name="gworkers", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(Exit.USAGE)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help'." if context is not None else ""
        click.echo(f"gworkers: {error.format_message()}{hint}", err=True)
        sys.exit(Exit.USAGE)
    except click.Abort:
        sys.exit(Exit.UNSETTLED)
    except ConfigError as error:
        click.echo(str(error), err=True)
        count = len(error.problems)
        click.echo(f"gworkers: {count} problem{'s' if count > 1 else ''} in the configuration", err=True)
        sys.exit(error.status)
    except GworkersError as error:
        click.echo(f"gworkers: {error}", err=True)
        sys.exit(error.status)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, as `| head` does
        sys.exit(Exit.OK)
    sys.exit(status if isinstance(status, int) else Exit.OK)
