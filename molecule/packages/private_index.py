"""A package index with a password and a certificate of its own authority, which serves a folder of wheels."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Server(ThreadingHTTPServer):
    """All hosts ask for some hundred files at once."""

    request_queue_size = 256


def certificate(address: str, folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate of the server; paths of the authority, the certificate and its key."""
    now = datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of a test")]) for name in keys}
    files = folder / "authority.pem", folder / "server.pem", folder / "server.key"
    for name, file in zip(keys, files, strict=False):
        made = (
            x509.CertificateBuilder()
            .subject_name(names[name])
            .issuer_name(names["authority"])
            .public_key(keys[name].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[name].public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["authority"].public_key()), critical=False
            )
            .sign(keys["authority"], hashes.SHA256())
        )
        file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        keys["server"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@contextmanager
def serve(wheels: Path, address: str, folder: Path, user: str, password: str) -> Iterator[tuple[str, Path, list[str]]]:
    """Serve until the end of the block; yields host and port, the authority, and the paths that were served."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    served: list[str] = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.content()
            status = 401 if self.headers["Authorization"] != wanted else 404 if content is None else 200
            self.send_response(status)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            if status == 200 and content is not None:
                served.append(self.path)
                self.send_header("Content-Type", "text/html" if self.path.startswith("/simple/") else "application/zip")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            else:
                self.send_header("Content-Length", "0")
                self.end_headers()

        def content(self) -> bytes | None:
            """A page of links, or a wheel; None for what is not there."""
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "files" and (wheels / name).is_file():
                return (wheels / name).read_bytes()
            found = [
                file.name for file in wheels.glob("*.whl") if file.name.split("-")[0].lower().replace("_", "-") == name
            ]
            links = "".join(f'<a href="/files/{file}">{file}</a>\n' for file in found)
            return f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if found else None

        def log_message(self, format: str, *args: object) -> None:
            """Be silent."""

    authority, chain, key = certificate(address, folder)
    server = Server((address, 0), Index)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{address}:{server.server_address[1]}", authority, served
    finally:
        server.shutdown()
        server.server_close()
