"""The TLS settings of clients and servers, and descriptions of TLS errors."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from iris.arguments import check_path, refuse
from iris.errors import FailedPreconditionError, causes
from iris.rpc.address import is_loopback_host
from iris.rpc.http.http2_support import has_http2

# The name of the file in the state directory in which `client_cert.py` stores the client certificate of the cluster.
PART_FILE = "part.pem"
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+", re.ASCII)
CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE = "IRIS_CA", "IRIS_CERT", "IRIS_CERT_KEY"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The TLS settings of a client: the certificates that the client trusts, and its own certificate.

    Attributes:
        ca: A file with the trusted certificates, in PEM. Empty means the file that `SSL_CERT_FILE` names, or the
            directory that `SSL_CERT_DIR` names, or otherwise the public certificate authorities of certifi.
        cert: A file with the client's certificate. Empty if the client has no certificate.
        key: A file with the key of the certificate. Empty if the file `cert` contains the key.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def given(
        cls, ca: str | os.PathLike[str] | None, cert: str | os.PathLike[str] | tuple[str, str] | None
    ) -> ClientTls:
        """Return the settings from a user's arguments, with `IRIS_CA`, `IRIS_CERT` and `IRIS_CERT_KEY` as defaults.

        Raises:
            InvalidArgumentError: `ca` is not a path, or `cert` is neither a path nor a pair of paths.
        """
        if isinstance(cert, tuple):
            if len(cert) != 2:
                refuse("cert", "a path, or a pair of paths (certificate, key)", cert)
            own, key = check_path("the certificate of cert", cert[0]), check_path("the key of cert", cert[1])
        elif cert is not None:
            own, key = check_path("cert", cert, none="no certificate"), ""
        else:
            own, key = os.environ.get(CERT_VARIABLE, ""), os.environ.get(KEY_VARIABLE, "")
        trusted = os.environ.get(CA_VARIABLE, "") if ca is None else check_path("ca", ca, none="the public ones")
        return cls(trusted, own, key)

    def variables(self) -> dict[str, str]:
        """Return environment variables with the TLS settings, for another program that calls the same server."""
        given = {CA_VARIABLE: self.ca, CERT_VARIABLE: self.cert, KEY_VARIABLE: self.key}
        return {name: os.path.abspath(path) for name, path in given.items() if path}

    def pems(self) -> dict[str, bytes]:
        """Return the contents of the certificate files, as arguments for pyqwest's transport.

        Raises:
            FailedPreconditionError: A file cannot be read, or the directories of `SSL_CERT_DIR` have no certificates.
        """
        file, folder = self._trusted()
        trusted = _hashed_files(folder) if folder else [Path(file)]
        if not trusted:
            raise FailedPreconditionError(
                f"SSL_CERT_DIR={folder} has no certificates that OpenSSL finds: run 'openssl rehash' on the directory,"
                " or unset the variable"
            )
        own = {"tls_cert": self.cert, "tls_key": self.key or self.cert}
        try:
            pems = {name: Path(path).read_bytes() for name, path in own.items() if path}
            return pems | {"tls_ca_cert": b"\n".join(path.read_bytes() for path in trusted)}
        except OSError as error:
            raise FailedPreconditionError(f"{error.filename}: {_why(error)}; expected a file in PEM") from error

    def context(self) -> ssl.SSLContext:
        """Return an `ssl` context with these settings, for the connections of a client.

        Raises:
            FailedPreconditionError: A file cannot be read, or does not contain certificates or a key in PEM.
        """
        trusted, folder = self._trusted()
        try:
            context = ssl.create_default_context(cafile=trusted or None, capath=folder or None)
        except (OSError, ssl.SSLError) as error:
            raise FailedPreconditionError(
                f"ca={trusted}: {_why(error)}; expected a file with certificates in PEM"
            ) from error
        # Every certificate in the file is trusted. The file may therefore contain a server's own certificate, even if
        # an unknown authority has signed it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert:
            _load_pair(context, self.cert, self.key, "cert")
        return context

    def _trusted(self) -> tuple[str, str]:
        """Return the file and the directories with the trusted certificates. One of them is an empty string."""
        import certifi

        file = self.ca or os.environ.get("SSL_CERT_FILE") or ""
        folder = "" if file else os.environ.get("SSL_CERT_DIR", "")
        return (file, folder) if file or folder else (certifi.where(), "")


def _hashed_files(folders: str) -> list[Path]:
    """Return the certificate files that OpenSSL finds in directories whose paths are separated by `:`. The names of
    such files are hashes, as `openssl rehash` makes them. Like OpenSSL, ignore empty paths and links to missing files.
    """
    found = [path for folder in folders.split(os.pathsep) if folder for path in Path(folder).glob("*.*")]
    return sorted(path for path in found if _HASHED.fullmatch(path.name) and path.is_file())


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The certificate of a server, and the client certificates that the server accepts.

    Attributes:
        cert: A file with the server's certificate and the intermediate certificates, in PEM.
        key: A file with the key of the certificate.
        client_ca: A file with the authorities that sign client certificates. Empty if clients need no certificate.
        part: A file with the certificate and key that controller and workers present to each other if clients need a
            certificate, see client_cert.py.
    """

    cert: str
    key: str
    client_ca: str = ""
    part: str = ""

    @classmethod
    def of_files(cls, cert: str, key: str, client_ca: str, part: str = "") -> ServerTls | None:
        """Return the TLS settings with the given files, or None if no certificate is given."""
        return cls(cert, key, client_ca, part) if cert else None

    def context(self) -> ssl.SSLContext:
        """Return an `ssl` context with these settings, for the connections of a server.

        Raises:
            FailedPreconditionError: A file cannot be read, or does not contain certificates or a key in PEM.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2", "http/1.1"] if has_http2() else ["http/1.1"])
        _load_pair(context, self.cert, self.key, "--tls-cert, --tls-key")
        if self.client_ca:
            try:
                context.load_verify_locations(self.client_ca)
                if self.part:
                    context.load_verify_locations(self.part)
            except (OSError, ssl.SSLError) as error:
                raise FailedPreconditionError(
                    f"--client-ca {self.client_ca}: {_why(error)}; expected a file with certificates in PEM"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_parts(self) -> ClientTls:
        """Return the settings with which controller and workers call each other and trust this certificate."""
        return ClientTls(self.cert, self.part)


def check_exposure(host: str, *, tls: bool, insecure: bool) -> None:
    """Check that a server without TLS is bound to the loopback of this machine, unless the user has accepted the risk.

    Raises:
        FailedPreconditionError: Other machines could reach the server, which does not use TLS.
    """
    if tls or insecure or is_loopback_host(host):
        return
    raise FailedPreconditionError(
        f"{host} is not the loopback of this machine, and without TLS anyone who sees its traffic can read tokens"
        " and run programs as you: give --tls-cert and --tls-key, or use --insecure-no-tls"
    )


def explain(error: BaseException) -> str:
    """Return an explanation of the TLS error among an error's causes, with advice. Return an empty string if there is
    no TLS error.
    """
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _explain_certificate(cause)
        if isinstance(cause, ssl.SSLError):
            return _explain_handshake(cause)
    return ""


def _explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    why = (error.verify_message or str(error)).rstrip(".")
    # The numbers are OpenSSL's X509_V_ERR_…: 9 not yet valid, 10 expired, 62 to 64 for another name or address.
    if error.verify_code in (9, 10):
        return f"its certificate is not valid at this time: {why}"
    if error.verify_code in (62, 63, 64):
        return f"its certificate is for another name: {why}"
    return f"its certificate is not trusted: {why}; give the file of who signed it with ca=… or {CA_VARIABLE}"


def _explain_handshake(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "it does not speak TLS; is the address http://…?"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "UNKNOWN_CA" in reason:
        return f"it asks for a certificate that it trusts: give one with cert=… or {CERT_VARIABLE}"
    # Other errors of TLS mean that the connection broke. They need no explanation, because the call is retried.
    return ""


def _load_pair(context: ssl.SSLContext, cert: str, key: str, what: str) -> None:
    def no_password() -> str:
        raise FailedPreconditionError(f"the key of {what} is encrypted: give a key without a password")

    try:
        context.load_cert_chain(cert, key or None, password=no_password)
    except (OSError, ssl.SSLError) as error:
        shown = f"{cert}, {key}" if key else cert
        raise FailedPreconditionError(
            f"{what} ({shown}): {_why(error)}; expected a certificate and its key, in PEM"
        ) from error


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
