"""A server's certificate changes: to one that the device trusts, and to one that it does not."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airlora.delivery import AgentPlan, HttpLink, LinkLimits, StateFolder, Visit, publish_stream, visit
from airlora.errors import NetworkError
from delivery import STREAMS, make_repository


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, name: str, folder: Path) -> None:
        self.key, self.folder = ec.generate_private_key(ec.SECP256R1()), folder
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        self.file = folder / f"{name}.pem"
        certificate = self._signed(self.name, self.key, constraint, None)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self) -> ssl.SSLContext:
        """Return a server's context with a new certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._signed(name, key, x509.BasicConstraints(ca=False, path_length=None), place)
        file = self.folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraint: x509.BasicConstraints,
        place: x509.SubjectAlternativeName | None,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(constraint, critical=True)
        )
        if place is not None:
            builder = builder.add_extension(place, critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, context: ssl.SSLContext, port: int = 0) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=folder))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_a_certificate_that_changes(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    ours, theirs = Authority("ours", tmp_path), Authority("theirs", tmp_path)
    folder = StateFolder(tmp_path / "state")

    def look(port: int, authority: Authority) -> Visit:
        limits = LinkLimits(max_attempts=2, first_wait_s=0.01)
        link = HttpLink(limits, ca_file=str(authority.file))
        return visit(folder, AgentPlan(f"https://127.0.0.1:{port}"), link, seed=0)

    with serving(repository.folder, ours.context()) as port:
        assert look(port, ours).complete
        publish_stream(repository, STREAMS[1])
    # Renewed by the same authority, while the device was away.
    with serving(repository.folder, ours.context()) as port:
        assert look(port, ours).version == 2
        publish_stream(repository, STREAMS[2])
    # By another: nothing is asked of that server, and what runs runs on.
    with serving(repository.folder, theirs.context()) as port:
        found = look(port, ours)
        assert isinstance(found.error, NetworkError)
        assert "certificate verify failed" in str(found.error)
        assert (found.version, folder.read_slot(found.slot)[0]) == (2, STREAMS[1])
        # Once it is trusted too, the visit goes on.
        assert look(port, theirs).version == 3


def test_a_record_that_takes_longer_than_a_stall_may(tmp_path: Path) -> None:
    """TLS hands nothing out before a record of up to 16 KiB is whole; what counts are the bytes below it."""
    authority = Authority("ours", tmp_path)
    context, body = authority.context(), b"x" * 12_000
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        threading.Thread(target=answer_slowly, args=(listener, context, body), daemon=True).start()
        limits = LinkLimits(stall_timeout_s=0.5, connect_timeout_s=5.0)
        link = HttpLink(limits, ca_file=str(authority.file))
        began = time.monotonic()
        assert b"".join(link.get(f"https://127.0.0.1:{listener.getsockname()[1]}/x")) == body
        assert time.monotonic() - began > 2 * limits.stall_timeout_s


def answer_slowly(listener: socket.socket, context: ssl.SSLContext, body: bytes) -> None:
    """Answer one request in one record, a few bytes at a time."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    connection, _ = listener.accept()
    with connection:
        while True:
            try:
                tls.do_handshake()
                if tls.read(4096):
                    break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(4096))
        tls.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        content = outgoing.read()
        for start in range(0, len(content), 1000):
            connection.sendall(content[start : start + 1000])
            time.sleep(0.12)
