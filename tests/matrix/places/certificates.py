"""`Certificates`: what a TLS server may show, good and bad, each in PEM."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import trustme


class Certificates:
    """One authority that the clients trust, and certificates of every kind."""

    def __init__(self) -> None:
        authority = trustme.CA()
        past = datetime.now(UTC) - timedelta(days=1)
        self.authority_pem = authority.cert_pem.bytes()
        self.good_pem = _pem(authority.issue_cert("127.0.0.1", "localhost"))
        self.expired_pem = _pem(authority.issue_cert("127.0.0.1", not_before=past - timedelta(days=9), not_after=past))
        self.misnamed_pem = _pem(authority.issue_cert("another.example"))
        self.unknown_pem = _pem(trustme.CA().issue_cert("127.0.0.1", "localhost"))


def _pem(certificate: trustme.LeafCert) -> bytes:
    return certificate.private_key_and_cert_chain_pem.bytes()
