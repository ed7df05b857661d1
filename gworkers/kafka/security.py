"""The options of kafka-python that have to do with TLS and with logging in: what can be told of them
without Kafka, and what they become."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent

from gworkers import native
from gworkers.errors import one_line
from gworkers.kafka import green

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI", "AWS_MSK_IAM")

#: Options that name files, relative to the configuration file.
FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile")

#: Seconds that a token provider may take for a token.
TOKEN_TIMEOUT = 10.0


class TokenError(Exception):
    """The application's token provider gave no token; the text is a sentence without its subject."""


def resolved(folder: Path, name: str, value: Any) -> Any:
    """A value as kafka-python takes it: paths start at the configuration's folder."""
    return str(folder / Path(value).expanduser()) if name in FILES and isinstance(value, str) else value


def problems(folder: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the options of one client: the option's name and a sentence."""
    protocol = options.get("security_protocol", "PLAINTEXT")
    if protocol not in PROTOCOLS:
        yield "security_protocol", f"expected {', '.join(PROTOCOLS[:-1])} or {PROTOCOLS[-1]}"
        return
    tls, login = protocol.endswith("SSL"), protocol.startswith("SASL")
    for name in options:
        if name.startswith("ssl_") and not tls and name != "ssl_check_hostname":
            yield name, f"it has no effect with security_protocol: {protocol}; set that to SSL or SASL_SSL, or leave this out"
        if name.startswith("sasl_") and not login:
            yield name, f"it has no effect with security_protocol: {protocol}; set that to SASL_SSL or SASL_PLAINTEXT, or leave this out"
    if tls:
        yield from _files(folder, options)
    if login:
        yield from _login(options)


def _files(folder: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    bad = False
    for name in FILES:
        value = options.get(name)
        if not isinstance(value, str):
            continue
        path = Path(resolved(folder, name, value))
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            bad = True
            yield name, f"the file {path} cannot be read: {error.strerror}"
    if bad:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(options.get("ssl_cafile"), str):
        path = resolved(folder, "ssl_cafile", options["ssl_cafile"])
        try:
            context.load_verify_locations(path)
        except (ssl.SSLError, OSError):
            yield "ssl_cafile", f"the file {path} holds no certificate; it has to be in PEM format (-----BEGIN CERTIFICATE-----)"
    if isinstance(options.get("ssl_keyfile"), str) and not options.get("ssl_certfile"):
        yield "ssl_keyfile", "a key is of no use without its certificate; set ssl_certfile too"
    if isinstance(options.get("ssl_certfile"), str):
        yield from _own_certificate(context, folder, options)


def _own_certificate(context: ssl.SSLContext, folder: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    certificate = resolved(folder, "ssl_certfile", options["ssl_certfile"])
    key = resolved(folder, "ssl_keyfile", options.get("ssl_keyfile"))
    password = str(options.get("ssl_password") or "")
    asked = False

    def give() -> str:  # a function, so that OpenSSL never asks at the terminal of a server
        nonlocal asked
        asked = True
        return password

    try:
        context.load_cert_chain(certificate, key, give)
    except ssl.SSLError as error:
        told = str(error).upper()
        if asked:
            where = "ssl_keyfile" if key else "ssl_certfile"
            wanted = "ssl_password does not open it" if password else "set ssl_password (from a file: ${file:…})"
            yield where, f"the key in {key or certificate} is encrypted; {wanted}"
        elif "KEY_VALUES_MISMATCH" in told:
            yield "ssl_keyfile", f"the key in {key} is not that of the certificate in {certificate}"
        elif not key:
            yield "ssl_certfile", f"the file {certificate} does not hold both a certificate and its key in PEM format; set ssl_keyfile?"
        else:
            yield "ssl_certfile", f"{certificate} holds no certificate, or {key} no key, in PEM format"
        return
    except OSError as error:
        yield "ssl_certfile", f"{certificate} cannot be read: {error.strerror}"
        return
    ends = _facts(certificate).get("notAfter")
    if isinstance(ends, str) and ssl.cert_time_to_seconds(ends) < time.time():
        yield "ssl_certfile", f"the certificate in {certificate} has expired: {ends}"


def _facts(file: str) -> dict[str, Any]:
    """The fields of a certificate in a PEM file; nothing where Python cannot tell."""
    try:
        found: dict[str, Any] = ssl._ssl._test_decode_cert(file)  # type: ignore[attr-defined]
        return found
    except (ssl.SSLError, OSError, AttributeError):
        return {}


def _login(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    mechanism = options.get("sasl_mechanism")
    if mechanism not in MECHANISMS:
        known = ", ".join(MECHANISMS)
        if mechanism is None:
            yield "security_protocol", f"to log in, a sasl_mechanism is needed; set one of {known}"
        else:
            yield "sasl_mechanism", f"expected one of {known}"
    elif mechanism == "PLAIN" or mechanism.startswith("SCRAM"):
        for name in ("sasl_plain_username", "sasl_plain_password"):
            if not options.get(name):
                yield "sasl_mechanism", f"{mechanism} logs in with a name and a password; set {name} too"
    elif mechanism == "OAUTHBEARER" and not options.get("sasl_oauth_token_provider"):
        yield "sasl_mechanism", "OAUTHBEARER logs in with tokens; set sasl_oauth_token_provider to module:object, which has token()"


def principal(options: Mapping[str, Any]) -> str:
    """Who this client is to Kafka, as rights are given to it: "User:shop"."""
    protocol = str(options.get("security_protocol") or "PLAINTEXT")
    if protocol.startswith("SASL"):
        name = options.get("sasl_plain_username")
        return f"User:{name}" if name and options.get("sasl_mechanism") != "OAUTHBEARER" else "User:NAME"
    if protocol == "SSL" and isinstance(options.get("ssl_certfile"), str):
        subject = _facts(options["ssl_certfile"]).get("subject", ())
        parts = [f"{_SHORT.get(name, name)}={value}" for entry in reversed(subject) for name, value in entry]
        return f"User:{','.join(parts)}" if parts else "User:NAME"
    return "User:ANONYMOUS"


_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "countryName": "C",
}


def token_provider(path: str, found: Any) -> Any:
    """kafka-python's token provider for whatever ``path`` names: an object with ``token()``, or a
    class of such. Raises ValueError.

    token() is called when a connection is made, in a native thread of its own where the process is
    not patched: it may ask a server for a token in any way it likes.
    """
    try:
        inner = found() if isinstance(found, type) else found
    except Exception as error:
        raise ValueError(f"{path} cannot be made without arguments: {one_line(error)}") from None
    if not callable(getattr(inner, "token", None)):
        raise ValueError(f"{path} has no token(); it has to be an object with a method of this name, or a class of such")
    base = green.module("kafka.net.sasl.oauth").AbstractTokenProvider

    def call(function: Any) -> Any:
        return native.call(None if green.patched() else gevent.get_hub().threadpool, function)

    class Provider(base):  # type: ignore[misc, valid-type]
        def token(self) -> str:
            try:
                with gevent.Timeout(TOKEN_TIMEOUT, TokenError(f"{path}.token() took longer than {TOKEN_TIMEOUT:g} s")):
                    token = call(inner.token)
            except TokenError as late:
                raise TokenError(f"cannot be logged in to: {late}") from None
            except Exception as error:
                raise TokenError(f"cannot be logged in to: {path}.token() failed: {one_line(error)}") from error
            token = token.decode() if isinstance(token, bytes) else token
            if not isinstance(token, str) or not token:
                raise TokenError(f"cannot be logged in to: {path}.token() gave no text")
            return token

        def extensions(self) -> dict[str, str]:
            own = getattr(inner, "extensions", None)
            return dict(call(own)) if callable(own) else {}

    return Provider()
