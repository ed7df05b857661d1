"""What a failed connection means to whoever configures it: the true reason in a sentence, and whether
waiting can help."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gworkers.errors import one_line
from gworkers.kafka import probe, troubles
from gworkers.kafka.errors import Kind, classify
from gworkers.kafka.security import TokenError


@dataclass(frozen=True, slots=True)
class Reason:
    """text: a sentence without the address it is about; final: waiting does not help, somebody has
    to change something here or there."""

    text: str
    final: bool


#: Alerts by which a broker refuses our certificate or misses it, and those of a handshake that leads
#: nowhere; OpenSSL's codes for a certificate that is not believed.
_NOT_OURS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE")
_NO_AGREEMENT = ("PROTOCOL_VERSION", "NO_PROTOCOLS", "HANDSHAKE_FAILURE", "NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL")
_EXPIRED, _NOT_YET, _REVOKED, _HOST_NAME, _IP_ADDRESS = 10, 9, 23, 62, 64


def explain(address: str, error: BaseException, options: Mapping[str, Any]) -> Reason | None:
    """Why the last attempt at ``address`` failed; None when it is nothing but a broker that is away.

    options: those that the client was made with. May look at the address, up to some seconds.
    """
    for one in troubles.chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return Reason(_not_believed(one, options), True)
        if isinstance(one, TokenError):
            return Reason(str(one), False)
        if isinstance(one, ssl.SSLError) or (_speaks_tls(options) and isinstance(one, (ConnectionError, EOFError))):
            found = _handshake(address, one, options)
            if found is not None:
                return found
    kind = classify(error)
    if kind is Kind.NO_MECHANISM:
        enabled = probe.mechanisms(address, probe.context_of(dict(options)))
        there = f"; enabled there: {', '.join(enabled)}" if enabled else ""
        return Reason(f"does not know sasl_mechanism {options.get('sasl_mechanism')}{there}", True)
    if kind is Kind.NOT_LET_IN:
        return Reason(f"does not let {_who(options)} in: {_answer(error)}", True)
    if kind is Kind.NO_LOGIN_HERE:
        other = "SSL" if _speaks_tls(options) else "PLAINTEXT"
        return Reason(f"asks for no login at this port; set kafka.client.security_protocol: {other}, or name the port that does", True)
    return None


def no_login(addresses: list[str], options: Mapping[str, Any]) -> str | None:
    """Why a broker that lets itself be connected to answers nothing more: it wants a login that
    nobody configured. None when that is not so."""
    if str(options.get("security_protocol") or "PLAINTEXT").startswith("SASL"):
        return None
    context = probe.context_of(dict(options))
    for address in addresses:
        if probe.wants_a_login(address, context):
            return f"{address} {probe.login_wanted(address, context)}"
    return None


def _speaks_tls(options: Mapping[str, Any]) -> bool:
    return options.get("security_protocol") in ("SSL", "SASL_SSL")


def _not_believed(error: ssl.SSLCertVerificationError, options: Mapping[str, Any]) -> str:
    """The broker's certificate is not what it must be."""
    code = error.verify_code
    if code == _EXPIRED:
        return "has a certificate that has expired; it is the broker's to renew"
    if code == _NOT_YET:
        return "has a certificate that is not valid yet; is the clock of this machine right?"
    if code == _REVOKED:
        return "has a certificate that ssl_crlfile says is revoked"
    if code in (_HOST_NAME, _IP_ADDRESS):
        told = error.verify_message.rstrip(".")
        return (
            f"has a certificate for another host ({told}); use a name that stands in it, or set kafka.client.ssl_check_hostname: false, "
            "which gives up the proof that it is the right one"
        )
    told = error.verify_message or "unknown"
    if options.get("ssl_cafile"):
        return f"has a certificate that no authority in {options['ssl_cafile']} has signed ({told}); is it the right ssl_cafile?"
    return (
        f"has a certificate that no authority which this machine knows has signed ({told}); "
        "set kafka.client.ssl_cafile to the certificate of the one that has"
    )


def _handshake(address: str, error: BaseException, options: Mapping[str, Any]) -> Reason | None:
    """TLS failed for another reason than the broker's certificate."""
    told = str(error).upper()
    ours = f"ssl_certfile {options.get('ssl_certfile')}"
    if "CERTIFICATE_EXPIRED" in told:
        return Reason(f"says that our certificate has expired ({ours})", True)
    if any(word in told for word in _NOT_OURS):
        if options.get("ssl_certfile"):
            return Reason(f"does not accept our certificate ({ours}): no authority that it trusts has signed it, or it has expired", True)
        return Reason("wants a certificate of ours; set kafka.client.ssl_certfile and ssl_keyfile", True)
    if probe.speaks_plain_text(address):
        other = "SASL_PLAINTEXT" if str(options.get("security_protocol")).startswith("SASL") else "PLAINTEXT"
        return Reason(f"speaks no TLS at this port; set kafka.client.security_protocol: {other}, or name the port that does", True)
    if any(word in told for word in _NO_AGREEMENT):
        return Reason(f"and this machine agree on no version of TLS, or on no cipher ({one_line(error)})", True)
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Reason(f"and this machine cannot agree on TLS: {one_line(error)}", False)
    return None


def _who(options: Mapping[str, Any]) -> str:
    mechanism = options.get("sasl_mechanism")
    if mechanism == "OAUTHBEARER":
        return "the token of sasl_oauth_token_provider"
    name = options.get("sasl_plain_username")
    return f"the user {name}" if name else f"us (sasl_mechanism {mechanism})"


def _answer(error: BaseException) -> str:
    """What the broker said of a login."""
    text = one_line(error).partition(": ")[2] or one_line(error)
    text = text.removeprefix("SaslAuthenticationFailedError: ").removeprefix("[Error 58] ")
    return f"{text}; is the name right, and the password?" if "redential" in text or "assword" in text else text
