"""List the objects of a source in S3 or on a web server, and download those that a run reads.

Contains what fsspec does and its errors. Which of the objects are source files is decided in `discovery`, which are new
or changed in `incremental`: until it is downloaded, an object is an empty file of the same size and time.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any

from segmentation_pipeline.config.source_settings import WEB
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.driver_errors import without_cause

_WILDCARDS = "*?["
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_ATTEMPTS = 3
# A bucket with a million objects is listed within minutes. A download that is slower than this never ends.
_LIST_SECONDS, _INFO_SECONDS, _MIN_BYTES_PER_SECOND, _MAX_UNKNOWN_BYTES = 600, 60, 100_000, 1_000_000_000
# The extra of the package, or the package itself, that has the driver of a scheme.
_PACKAGES = {
    "s3": "segmentation-pipeline[s3]",
    "https": "segmentation-pipeline[http]",
    "http": "segmentation-pipeline[http]",
    "gs": "gcsfs",
    "az": "adlfs",
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_CONNECTION_STRING",
}
_DENIED = ("Forbidden", "AccessDenied", "Access Denied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Unauthorized")
_UNREACHABLE = ("Connect", "Timeout", "timed out", "Name or service", "getaddrinfo", "ServerDisconnected")


@dataclass(frozen=True)
class _Object:
    """An object of a store.

    Attributes:
        url: Its address.
        key: Its path in the file system of fsspec.
        size: Its size in bytes; None if the store does not say.
        version: What changes with its content: the ETag, or else the time; empty if the store gives neither.
        modified_at: Its time of modification; None if the store does not say.
        is_fetched: Whether it is downloaded.
    """

    url: str
    key: str
    size: int | None
    version: str
    modified_at: datetime | None
    is_fetched: bool = False

    @classmethod
    def of(cls, url: str, info: Mapping[str, Any]) -> "_Object":
        """Return the object that fsspec describes."""
        tag = str(info.get("ETag") or info.get("etag") or "").strip('"')
        time = info.get("LastModified") or info.get("Last-Modified") or info.get("last_modified") or info.get("mtime")
        if isinstance(time, str):
            time = parsedate_to_datetime(time)
        at = time if isinstance(time, datetime) else None
        # Not both: listings and descriptions can have times of different precision.
        version = tag or ("" if at is None else at.isoformat(timespec="seconds"))
        return cls(url, str(info["name"]), info.get("size"), version, at)

    @property
    def nanoseconds(self) -> int:
        """The time of modification, in whole seconds, with a fraction that changes with the content."""
        seconds = 0 if self.modified_at is None else int(self.modified_at.astimezone(UTC).timestamp())
        fraction = int(hashlib.sha256(self.version.encode()).hexdigest()[:8], 16) % 1_000_000
        return seconds * 1_000_000_000 + fraction * 1_000


@dataclass
class ObjectStores:
    """The objects of a source, as files in a folder of the run.

    Attributes:
        folder: Where they are; below it, an object has the path of its URL.
        objects: The objects that are listed, by their path in the folder, each with its file system.
        systems: The file system of each scheme.
    """

    folder: Path
    objects: dict[Path, tuple[Any, _Object]] = field(default_factory=dict)
    systems: dict[str, Any] = field(default_factory=dict)

    def mirror(self, url: str) -> str:
        """List the objects at a URL, create an empty file for each, and return the path below `folder` that finds them.

        Raises:
            SourceError: The store cannot be listed, or has no such object.
        """
        kind, _, rest = url.partition("://")
        if kind not in self.systems:
            # Opening one takes longer than listing.
            self.systems[kind] = _file_system(kind)
        system = self.systems[kind]
        found = list(without_cause(lambda: list(_objects(system, kind, rest)), lambda error: _error(url, error)))
        if not found:
            raise SourceError(f"source.path: nothing to read at {url}: no object has such a name. Correct the path.")
        for one in found:
            path = self._path(one.url)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.truncate(one.size or 0)
            except OSError as error:
                raise SourceError(
                    f"source.path: {one.url} cannot be a file beside the others ({error.strerror}). Rename the object."
                ) from None
            self.objects[path] = (system, one)
            if not one.version:
                self._fetch_unversioned(path)
            os.utime(path, ns=(self.objects[path][1].nanoseconds,) * 2)
        return f"{kind}/{rest}"

    def fetch(self, path: Path) -> None:
        """Download an object into its file; nothing if the file is no object's.

        Raises:
            SourceError: It cannot be downloaded, or changes while it is.
        """
        if path not in self.objects or self.objects[path][1].is_fetched:
            return
        for _ in range(_ATTEMPTS):
            if self._is_fetched(path):
                return
        raise SourceError(
            f"source.path: {self.objects[path][1].url} changed {_ATTEMPTS} times while it was downloaded. Run later."
        )

    def _is_fetched(self, path: Path) -> bool:
        """Download an object, and return whether it was the same before and after."""
        system, before = self.objects[path]

        def failed(error: Exception) -> SourceError:
            return _error(before.url, error)

        without_cause(lambda: _download(system, before, path), failed)
        kind = before.url.partition("://")[0]
        after = without_cause(lambda: _described(system, kind, before.key), failed)
        is_same = after.version == before.version and after.size in (None, path.stat().st_size)
        self.objects[path] = (system, replace(after, is_fetched=is_same))
        os.utime(path, ns=(after.nanoseconds,) * 2)
        return is_same

    def _fetch_unversioned(self, path: Path) -> None:
        """Download an object without an ETag or a time: only its content says whether it is new."""
        system, one = self.objects[path]
        without_cause(lambda: _download(system, one, path), lambda error: _error(one.url, error))
        with path.open("rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()
        self.objects[path] = (system, replace(one, version=version, is_fetched=True))

    def with_urls(self, text: str) -> str:
        """Return a message with the URL of an object in place of its file."""
        for kind in _PACKAGES:
            text = text.replace(f"{self.folder / kind}/", f"{kind}://")
        return text

    def _path(self, url: str) -> Path:
        kind, _, rest = url.partition("://")
        return self.folder / kind / rest


def check_packages(url: str) -> None:
    """Check that the driver of a URL is installed.

    Raises:
        SourceError: It is not.
    """
    _file_system(url.partition("://")[0])


def _file_system(kind: str) -> Any:
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if kind == "s3":
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"max_attempts": _ATTEMPTS},
        }
    try:
        if kind in WEB:
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
            # From the environment: proxies, and passwords in ~/.netrc.
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
        return fsspec.filesystem(kind, **options)
    except ImportError:
        raise SourceError(
            f"source.path: {kind}:// needs further packages. Install them with `pip install '{_PACKAGES[kind]}'`."
        ) from None


def _objects(system: Any, kind: str, rest: str) -> Iterator[_Object]:
    """Yield the object at a path, or all below the folder that it names or its wildcards begin in."""
    if kind in WEB:
        yield _described(system, kind, f"{kind}://{rest}")
        return
    parts = rest.split("/")
    fixed = next((number for number, part in enumerate(parts) if set(part) & set(_WILDCARDS)), len(parts))
    start = "/".join(parts[:fixed]).rstrip("/")
    if fixed == len(parts) and not rest.endswith("/") and (found := _file_at(system, kind, start)):
        yield found
        return
    for key, info in sorted(_call(system, "find", start, seconds=_LIST_SECONDS, detail=True).items()):
        # Markers of folders, and names that are no paths.
        if info.get("type") == "file" and not key.endswith("/") and ".." not in PurePosixPath(key).parts:
            yield _Object.of(f"{kind}://{key}", info)


def _described(system: Any, kind: str, key: str) -> _Object:
    url = key if kind in WEB else f"{kind}://{key}"
    return _Object.of(url, {"name": key, **_call(system, "info", key, seconds=_INFO_SECONDS)})


def _download(system: Any, one: _Object, path: Path) -> None:
    seconds = _LIST_SECONDS + (one.size or _MAX_UNKNOWN_BYTES) / _MIN_BYTES_PER_SECOND
    _call(system, "get_file", one.key, str(path), seconds=seconds)


def _file_at(system: Any, kind: str, key: str) -> _Object | None:
    """Return the object of a key; None where there is none, and the key may be that of a folder."""
    try:
        info = _call(system, "info", key, seconds=_INFO_SECONDS)
    except FileNotFoundError:
        return None
    return _Object.of(f"{kind}://{key}", {"name": key, **info}) if info.get("type") == "file" else None


def _call(system: Any, name: str, *arguments: Any, seconds: float, **options: Any) -> Any:
    """Call a method of a file system, for so long at most: not all of its waiting has a timeout of its own."""
    from fsspec.asyn import AsyncFileSystem, sync

    if not isinstance(system, AsyncFileSystem):
        return getattr(system, name)(*arguments, **options)
    return sync(system.loop, getattr(system, f"_{name}"), *arguments, timeout=seconds, **options)


def _error(url: str, error: Exception) -> SourceError:
    """Return an error without the driver's message, which quotes requests with their signatures."""
    kind = url.partition("://")[0]
    if kind in WEB and isinstance(error.__cause__, Exception):
        # fsspec says of every error of a web server that there is no file.
        error = error.__cause__
    text = f"{type(error).__name__} {error}"
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404 or "NoSuchBucket" in text:
        return SourceError(
            f"source.path: nothing to read at {url}: there is no such object or bucket. Correct the path."
        )
    if "NoCredentials" in text or "Unable to locate credentials" in text:
        return SourceError(f"source.path: {url}: the environment has no credentials. Set {_CREDENTIALS[kind]}.")
    if isinstance(error, PermissionError) or status in (401, 403) or any(words in text for words in _DENIED):
        names = f" Correct {_CREDENTIALS[kind]} in the environment, or" if kind in _CREDENTIALS else " Let the server"
        return SourceError(f"source.path: {url}: access was denied.{names} allow reading and listing.")
    if any(words in text for words in _UNREACHABLE):
        return SourceError(f"source.path: {url}: the server cannot be reached. Check the network, and run again.")
    reason = f"{type(error).__name__}{f', status {status}' if status else ''}"
    return SourceError(f"source.path: {url} cannot be read ({reason}). Check the address, and run again.")
