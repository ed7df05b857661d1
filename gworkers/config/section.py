"""What the models of the configuration are made of."""

from __future__ import annotations

import socket
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gworkers.codecs import CODECS
from gworkers.config.units import TypeName


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=False)


TopicName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._-]{1,249}$"),
    TypeName("topic name", "a topic name: at most 249 letters, digits, dots, underscores and hyphens"),
]
DottedPath = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$", json_schema_extra={"x-kind": "path"}),
    TypeName("dotted path, module:callable", "a dotted path, as package.module:callable"),
]
RouteName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.-]+$"), TypeName("name", "a name of letters, digits, dots, underscores and hyphens")
]
InstanceName = Annotated[
    str,
    Field(pattern=r"^([A-Za-z0-9._-]|%\((host|process)\)s)+$"),
    TypeName("instance name", "letters, digits, dots, underscores and hyphens, and %(host)s and %(process)s"),
]
Address = Annotated[
    str,
    Field(pattern=r"^((\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{1,5}|unix:[^\x00]+)$"),
    TypeName("address, host:port or unix:PATH", "host:port or unix:PATH"),
]
HostPort = Annotated[
    str,
    Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{1,5}$"),
    TypeName("address, host:port", "host:port"),
]
FileMode = Annotated[str, Field(pattern=r"^0?[0-7]{3}$"), TypeName("file mode", 'an octal file mode in quotes, "0660"')]
CodecName = Annotated[str, TypeName(f"{', '.join(CODECS)} or dotted path")]


def named(name: str, process: int) -> str:
    """An InstanceName as it is for this process, by its number, on this host."""
    return name % {"host": socket.gethostname(), "process": process}
