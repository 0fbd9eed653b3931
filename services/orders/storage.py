"""The asset store: a local folder, whose files pass through us, or S3, which gives them out itself.

`ASSET_STORE_URL` is file:///folder or s3://bucket. Whatever keeps a file from being opened is the same to the
customer: FILE_UNAVAILABLE, to be tried again; why, is in the log.
"""

import mimetypes
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from services.chassis import logs
from services.orders import errors
from services.orders.rules import is_asset_key
from services.orders.settings import AssetSettings

if TYPE_CHECKING:
    # Typed dictionaries that obstore does not bring at run time.
    from obstore.store import ClientConfig, S3Config

log = logs.get(__name__)

CHUNK_BYTES = 64 * 1024
# How long a presigned link is good for: to follow it, not to pass it on.
_LINK = timedelta(minutes=2)
_TIMEOUTS: "ClientConfig" = {"timeout": "4s", "connect_timeout": "2s"}
_RETRY_TIME = timedelta(seconds=3)
# What obstore raises: OSError for a file that is missing, ValueError for a key that is no path.
_TROUBLE = (BaseError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Asset:
    """An open file: where it can be fetched, or else its chunks of at most CHUNK_BYTES."""

    size_bytes: int
    content_type: str
    url: str
    chunks: AsyncIterator[bytes]


class AssetStore:
    """Opens files by key; a key never leads out of the store."""

    def __init__(self, settings: AssetSettings) -> None:
        self._store = _connect(settings)

    async def open(self, key: str) -> Asset:
        """The file with this key. Raises FILE_UNAVAILABLE when it cannot be read now."""
        content_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
        try:
            if not is_asset_key(key):
                raise ValueError("not a key of the asset store")
            if isinstance(self._store, S3Store):
                size = (await obstore.head_async(self._store, key))["size"]
                url = await obstore.sign_async(self._store, "GET", key, _LINK)
                return Asset(size, content_type, url, _nothing())
            found = await obstore.get_async(self._store, key)
        except _TROUBLE as error:
            log.error("asset.unavailable", asset_key=key, error=type(error).__name__)
            raise errors.file_unavailable() from error
        return Asset(found.meta["size"], content_type, "", aiter(found.stream(min_chunk_size=CHUNK_BYTES)))

    # For one-shots, which wait anyway. Called asynchronously just before the process ends, obstore can abort
    # it: its threads outlive the interpreter (PyO3/pyo3-async-runtimes, issue 40).

    def has(self, key: str) -> bool:
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def put(self, key: str, content: bytes) -> None:
        obstore.put(self._store, key, content)


def _connect(settings: AssetSettings) -> LocalStore | S3Store:
    url = urlsplit(settings.asset_store_url)
    if url.scheme == "file" and not url.netloc and url.path.startswith("/"):
        return LocalStore(unquote(url.path), mkdir=True)
    if url.scheme != "s3" or not url.netloc:
        raise ValueError("ASSET_STORE_URL is file:///folder or s3://bucket")
    config: S3Config = {"bucket": url.netloc, "region": settings.asset_store_region}
    key_id, secret = settings.asset_store_access_key_id, settings.asset_store_secret_access_key
    if key_id is not None and secret is not None:
        config["access_key_id"] = key_id.get_secret_value()
        config["secret_access_key"] = secret.get_secret_value()
    endpoint = settings.asset_store_endpoint or ""
    if endpoint:
        config["endpoint"] = endpoint
    return S3Store(
        config=config,
        prefix=url.path.strip("/") or None,
        client_options={**_TIMEOUTS, "allow_http": endpoint.startswith("http://")},
        retry_config={"max_retries": 2, "retry_timeout": _RETRY_TIME},
    )


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
