"""The configuration of what is the application's: its modules, and what of it is called when."""

from __future__ import annotations

from pydantic import Field

from gworkers.config.section import DottedPath, Section


class App(Section):
    """The application: where its modules are, and what is run before the first message."""

    path: str = Field(".", description="Put first on `sys.path`; relative to the configuration file.", examples=["../src"])
    setup: DottedPath | None = Field(
        None, description="Run once a process, before the routes' modules are imported.", examples=["shop.boot:setup"]
    )
    python: str | None = Field(
        None,
        min_length=1,
        description="A Python of the same version whose installed packages the application needs, as the one of its virtual environment; "
        "relative to the configuration. Without it the environment that is active (VIRTUAL_ENV).",
        examples=["../venv/bin/python"],
    )
    env_file: str | None = Field(
        None,
        min_length=1,
        description="A file of `NAME=value` lines, relative to the configuration: variables for `${NAME}` in it and for the application. "
        "What is in the environment already stays as it is.",
        examples=["../.env"],
    )


class Hooks(Section):
    """What is called when processes and the threads of handlers begin and end, without arguments; and
    around each message, where the handler runs, with as many of the arguments as it takes."""

    process_start: DottedPath | None = Field(
        None, description="Once a process, when everything is imported, before the first message.", examples=["shop.boot:start"]
    )
    process_stop: DottedPath | None = Field(
        None, description="Once a process, after the last handler, on every stop but a crash.", examples=["shop.boot:stop"]
    )
    thread_start: DottedPath | None = Field(
        None, description="In each thread that runs handlers, before its first message.", examples=["shop.db:connect"]
    )
    thread_stop: DottedPath | None = Field(
        None, description="In each thread that has run handlers, at its end.", examples=["shop.db:disconnect"]
    )
    ready: DottedPath | None = Field(
        None,
        description="When `/readyz` is asked, on a thread of its own: the process is ready unless it raises or returns False.",
        examples=["shop.health:database"],
    )
    before: DottedPath | None = Field(
        None,
        description="Before the handler, with the message (on a route with `batch` the list of them); what it raises fails the attempt.",
        examples=["django.db:close_old_connections"],
    )
    after: DottedPath | None = Field(
        None,
        description="After the handler, with the message and its result, which is not sent yet; what it raises fails the attempt.",
        examples=["shop.audit:done"],
    )
    on_failure: DottedPath | None = Field(
        None, description="After an attempt that failed, with the message and the exception.", examples=["shop.alerts:failed"]
    )
    on_dead_letter: DottedPath | None = Field(
        None,
        description="When a message has failed for good and its dead letter is on its way, with the message (its value as bytes) and the "
        "exception; on a thread of its own.",
        examples=["shop.alerts:dead"],
    )
