"""Creates the certificate that controller and workers present to each other in a cluster that requires client
certificates.

The server's own certificate is often not usable as a client certificate, because certificates for web servers do not
allow client authentication.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from iris.rpc.http.tls import PART_FILE
from iris.system.files import read_secret, write_secret

_DAYS = 3650


def load_or_make(directory: Path) -> Path:
    """Return the file with the certificate and its key. If the file is missing, create it. An existing file is kept,
    because workers that were started with it may outlive their controller.

    Raises:
        FailedPreconditionError: Other users can read the file.
        ResourceExhaustedError: The file cannot be written.
    """
    path = directory / PART_FILE
    if read_secret(path) is None:
        write_secret(path, _make(), replace=False)
    return path


def _make() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a part of an Iris cluster")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (certificate.public_bytes(serialization.Encoding.PEM) + own).decode()
