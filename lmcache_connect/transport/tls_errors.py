"""What TLS errors mean, and what to check: certificates of both ends, and ends of which one speaks no TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from .wire import StreamClosedError


class CertificateRefusedError(StreamClosedError):
    """One end does not accept the other's certificate, or has none to show. The reason says what to check."""


class NoCommonTLSError(StreamClosedError):
    """The two ends have no version of TLS and no cipher in common."""


class NotTLSError(NoCommonTLSError):
    """The peer speaks, and not TLS."""


@dataclass(frozen=True, slots=True)
class TLSMeaning:
    """What the errors of one connection say.

    Attributes:
        server_name: the name that the peer's certificate must have.
        authorities: what the peer's certificate is verified against.
        has_certificate: whether this end has a certificate to show.
    """

    server_name: str
    authorities: str
    has_certificate: bool


@dataclass(frozen=True, slots=True)
class TLSFailure:
    """What is kept of an error of OpenSSL: its frames would keep buffers."""

    reason: str
    text: str
    verify_code: int | None = None
    verify_message: str = ""

    @classmethod
    def of(cls, error: ssl.SSLError) -> TLSFailure:
        """Returns what is kept of `error`."""
        reason, text = error.reason or "", error.strerror or str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return cls(reason, text, error.verify_code, error.verify_message)
        return cls(reason, text)


_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21, 24})
_ANOTHER_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_… of OpenSSL's x509_vfy.h."""

_OURS_IS_REFUSED: Final = (
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)
_OURS_IS_OLD: Final = ("CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED")
"""Alerts by which a peer refuses this end's certificate."""

_NOTHING_IN_COMMON: Final = frozenset(
    {"HANDSHAKE_FAILURE", "PROTOCOL_VERSION", "INSUFFICIENT_SECURITY", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"}
)
"""Alerts, and what OpenSSL says itself."""


def tls_error(peer: str, failure: TLSFailure, meaning: TLSMeaning) -> StreamClosedError:
    """Returns the error that says what `failure` means, and what to check."""
    if failure.verify_code is not None:
        return CertificateRefusedError(
            f"the certificate of {peer} does not verify against {meaning.authorities}: "
            f"{failure.verify_message or failure.text}; {_advice(failure.verify_code, meaning)}"
        )
    said = (failure.reason or failure.text).upper().replace(" ", "_")
    alert = said.rpartition("ALERT_")[2] if "ALERT_" in said else ""
    if alert == "CERTIFICATE_REQUIRED" or (alert in _OURS_IS_REFUSED and not meaning.has_certificate):
        return CertificateRefusedError(
            f"{peer} requires a client certificate ({alert.lower()}); set cert_file and key_file to one that it trusts"
        )
    if alert in _OURS_IS_REFUSED:
        return CertificateRefusedError(
            f"{peer} refuses this client's certificate ({alert.lower()}); check that cert_file was issued by an "
            "authority that the server trusts, for clients"
        )
    if alert in _OURS_IS_OLD:
        return CertificateRefusedError(
            f"{peer} refuses this client's certificate ({alert.lower()}); replace the one in cert_file"
        )
    if alert == "HANDSHAKE_FAILURE" and not meaning.has_certificate:
        return CertificateRefusedError(
            f"{peer} refuses the TLS handshake: it requires a client certificate (set cert_file and key_file to one "
            "that it trusts), or takes none of this end's ciphers"
        )
    if alert in _NOTHING_IN_COMMON or said in _NOTHING_IN_COMMON:
        return NoCommonTLSError(
            f"{peer} and this end have no TLS version and cipher in common ({failure.reason or failure.text}); check "
            "which ones the server takes: at least TLS 1.2 is needed"
        )
    return StreamClosedError(f"the TLS connection to {peer} failed: {failure.reason or failure.text}")


def not_tls_error(peer: str) -> NotTLSError:
    """Returns the error for a peer whose answer is not TLS."""
    return NotTLSError(f"{peer} does not speak TLS: its answer to the TLS handshake is something else")


def _advice(verify_code: int, meaning: TLSMeaning) -> str:
    if verify_code in _UNKNOWN_AUTHORITY:
        return "set ca_file to the certificate of the authority that issued it"
    if verify_code in _ANOTHER_NAME:
        return f"it is not for {meaning.server_name!r}: use a name that it has as the host, or as server_name"
    if verify_code == _EXPIRED:
        return "replace the server's certificate, or check this machine's clock"
    if verify_code == _NOT_YET_VALID:
        return "check this machine's clock, and when the server's certificate begins to hold"
    return "check the server's certificate"
