"""`noisy-student prepare` killed in the middle, as an operating system does it, and started again: the same bytes.

The images come over https, one of them not before the command is dead: so it dies where it is meant to.
"""

import http.server
import ipaddress
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.data.processes import are_gone

NUM_IMAGES, HELD, PER_PART = 40, 29, 4
LONGEST_S = 60.0
# as the command does; one process for both folders: its libraries take seconds
FINISH = """
import sys
from noisystudent_core import stages
from noisystudent_core.config.preparations import preparations
settings = preparations({"images_per_part": int(sys.argv[1]), "validation_share": 0.0}, labelled=True)[""]
for out in sys.argv[3:]:
    stages.prepare(settings, {"source": sys.argv[2]}, "", out=out)
"""


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate of its own for 127.0.0.1."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    begun = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    begun = begun.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = begun.add_extension(here, critical=False).sign(key, hashes.SHA256())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "server.pem"
    encoded = key.private_bytes(serialization.Encoding.PEM, form, plain)
    file.write_bytes(encoded + signed.public_bytes(serialization.Encoding.PEM))
    return file


class Web:
    """A web server over TLS that holds one image back until it is told to go on."""

    def __init__(self, images: list[bytes], pem: Path) -> None:
        self.go_on = threading.Event()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                number = int(self.path.strip("/").removesuffix(".png"))
                if number == HELD:
                    web.go_on.wait(LONGEST_S)
                self.send_response(200)
                self.send_header("Content-Length", str(len(images[number])))
                self.end_headers()
                self.wfile.write(images[number])

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web(tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    found = Web([picture(number) for number in range(NUM_IMAGES)], pem)
    yield found
    found.server.shutdown()
    found.server.server_close()


def start(table: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["prepare", str(table), str(out), "--labelled", "--images-per-part", str(PER_PART), "--no-inspect"]
    return subprocess.Popen([sys.executable, "-m", "flows", *words], stderr=subprocess.DEVNULL)


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_killed_command_goes_on_to_the_same_bytes(web: Web, tmp_path: Path) -> None:
    table, out = tmp_path / "list.csv", tmp_path / "killed"
    rows = [f"{web.url}/{number}.png,{('ant', 'bee')[number % 2]}" for number in range(NUM_IMAGES)]
    table.write_text("\n".join(["uri,label", *rows]))
    command = start(table, out)
    wait_for(lambda: len(list(out.rglob("*.parquet"))) == HELD // PER_PART)
    children = [
        int(child)
        for file in Path(f"/proc/{command.pid}/task").glob("*/children")
        for child in file.read_text().split()
    ]
    os.kill(command.pid, signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL and children
    wait_for(lambda: are_gone(children))
    left = files(out)
    assert not [path for path in left if path.name == "manifest.json"]

    web.go_on.set()
    whole = tmp_path / "whole"
    subprocess.run([sys.executable, "-c", FINISH, str(PER_PART), str(table), str(out), str(whole)], check=True)
    assert files(out) == files(whole)
    assert {path: files(out)[path] for path in left} == left  # no part was made again, or in vain
