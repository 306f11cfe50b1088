"""A server on the loopback address that answers as S3 does for one bucket, and as a web server for the same files."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET, BUCKET = "AKIATESTKEY", "s3cr3t/of+the=shop", "exports"
TIME, LIST_TIME = "Fri, 01 Mar 2024 10:00:00 GMT", "2024-03-01T10:00:00.000Z"


@dataclass
class Store:
    """The objects of the bucket, and what was asked of it.

    Attributes:
        port: The server's port.
        objects: The content of each object, by its key.
        downloads: The keys that were downloaded.
        has_versions: Whether answers have an ETag and a time.
        on_download: Called after each download with its key.
    """

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    has_versions: bool = True
    on_download: Callable[[str], None] = lambda key: None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which S3 is this server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def taken(self) -> list[str]:
        """Return the keys that were downloaded since the last call."""
        keys, self.downloads = sorted(self.downloads), []
        return keys


class _Handler(BaseHTTPRequestHandler):
    store: Store

    def do_GET(self) -> None:
        status, content, tag = self._found()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if tag:
            self.send_header("ETag", tag)
            self.send_header("Last-Modified", TIME)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            key = unquote(self.path).partition("/")[2].partition("/")[2]
            if status == 200 and key in self.store.objects:
                self.store.downloads.append(key)
                self.store.on_download(key)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass

    def _found(self) -> tuple[int, bytes, str]:
        """Return the status, the content and the ETag of the answer."""
        address, objects = urlsplit(self.path), self.store.objects
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        signed = self.headers.get("Authorization", "")
        if signed and f"Credential={KEY}/" not in signed:
            return 403, _error("InvalidAccessKeyId"), ""
        if bucket != BUCKET:
            return 404, _error("NoSuchBucket"), ""
        if not key:
            return 200, _listing(self.store, parse_qs(address.query).get("prefix", [""])[0]), ""
        if key not in objects:
            return 404, _error("NoSuchKey"), ""
        return 200, objects[key], _tag(objects[key]) if self.store.has_versions else ""


@contextmanager
def running_store() -> Iterator[Store]:
    """Start the server, and stop it at the end."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        store.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _listing(store: Store, prefix: str) -> bytes:
    found = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{LIST_TIME}</LastModified>"
        f"<ETag>{escape(_tag(content))}</ETag><Size>{len(content)}</Size></Contents>"
        for key, content in sorted(store.objects.items())
        if key.startswith(prefix)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{found}"
        "</ListBucketResult>"
    ).encode()


def _error(code: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
