"""Why a broker can't be used, for who has to mend it: certificates, logins, rights. Knows errors of TLS and Kafka, no client."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

NOT_ALLOWED = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
RIGHTS = "`headrace topics acls` prints the rights that each role needs"

# OpenSSL's numbers of what is wrong with a broker's certificate.
_NOT_YET, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
_UNKNOWN_SIGNER = (2, 18, 19, 20, 21)
# What a broker says of ours: Java has several words for a missing or unknown one.
_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "HANDSHAKE_FAILURE",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "CERTIFICATE_EXPIRED",
)


def explain(error: BaseException, where: str, protocol: str, user: str | None, certificate: bool) -> str | None:
    """One line about `error` of a connection to `where` ("host:port") that trying again will not mend; None for all others.
    `certificate`: whether we showed one of our own."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _their_certificate(cause, where)
        if isinstance(cause, ssl.SSLError):
            return _tls(cause, where, protocol, certificate)
        if isinstance(cause, SaslAuthenticationFailed | AuthenticationFailedError):
            return f"{where} refuses the login of {user!r}: wrong user name or password (security.sasl_username, sasl_password)"
        if isinstance(cause, UnsupportedSaslMechanismError | AuthenticationMethodNotSupported):
            return f"{where} does not take this way to log in: {cause}: check security.sasl_mechanism"
        if isinstance(cause, IllegalSaslStateError):
            return f"{where} takes no login: check security.protocol = {protocol!r}"
        if isinstance(cause, NOT_ALLOWED):
            name, kind = f"user {user!r}" if user else "this client", type(cause).__name__.removesuffix("Error")
            return f"{where} does not allow {name} what it needs ({kind}: {_of(cause)}): {RIGHTS}"
    return None


def broken_off(error: BaseException, where: str, protocol: str) -> str | None:
    """One line about a connection that a broker takes and then breaks off without a word: it speaks otherwise, or is just going
    (so it counts only when it comes again); None for all other errors."""
    if isinstance(error, ConnectionResetError) and protocol.endswith("SSL"):
        return f"{where} does not speak TLS: security.protocol is {protocol!r}"
    if isinstance(error, ConnectionResetError | KafkaConnectionError):
        return f"{where} closes the connection: it may want TLS or a login, and security.protocol is {protocol!r}"
    return None


def _of(error: BaseException) -> str:
    """What a refusal is about, without the number of the error."""
    return ", ".join(str(argument) for argument in error.args) or "?"


def _their_certificate(error: ssl.SSLCertVerificationError, where: str) -> str:
    host = where.rpartition(":")[0]
    code = error.verify_code
    if code == _EXPIRED:
        return f"{where}: the broker's certificate has expired"
    if code == _NOT_YET:
        return f"{where}: the broker's certificate is not valid yet"
    if code in (_OTHER_HOST, _OTHER_ADDRESS):
        return f"{where}: the broker's certificate is for another host than {host!r}: {error.verify_message}"
    if code in _UNKNOWN_SIGNER:
        return f"{where}: the broker's certificate is signed by nobody that is trusted: check security.ssl_cafile"
    return f"{where}: the broker's certificate can't be trusted: {error.verify_message}"


def _tls(error: ssl.SSLError, where: str, protocol: str, certificate: bool) -> str:
    reason = error.reason or str(error)
    if "ALERT" in reason and any(alert in reason for alert in _ALERTS):
        if not certificate:
            return f"{where} wants a client certificate: security.ssl_certfile and ssl_keyfile"
        expired = "it has expired" if "EXPIRED" in reason else "expired, or signed by nobody that the broker trusts"
        return f"{where} does not accept our certificate ({expired}): check security.ssl_certfile"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"):
        return f"{where} does not speak TLS: security.protocol is {protocol!r}"
    return f"{where}: no TLS connection: {reason}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
