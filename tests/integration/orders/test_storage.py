"""The asset store on a real S3-speaking server (rclone), and in a folder."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from services.chassis.errors import Unavailable
from services.orders import storage
from services.orders.settings import AssetSettings
from services.orders.storage import CHUNK_BYTES, AssetStore
from tests.integration.orders.shop import free_port

RCLONE = Path(sys.executable).with_name("rclone")
CONTENT = bytes(range(256)) * 1_000
# rclone says 400 where Amazon says 403, when the time is up or nothing is signed.
REFUSED = (400, 403)
KEY_ID, SECRET = "shop", "a secret of the store"


@contextmanager
def serving(root: Path, address: str) -> Iterator[None]:
    """Each folder of `root` is a bucket."""
    command = [str(RCLONE), "serve", "s3", "--config", "", "--addr", address]
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--auth-key", f"{KEY_ID},{SECRET}", str(root)], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AssetSettings]:
    root, address = tmp_path_factory.mktemp("s3"), f"127.0.0.1:{free_port()}"
    (root / "pictures" / "samples").mkdir(parents=True)
    (root / "pictures" / "samples" / "one.png").write_bytes(CONTENT)
    with serving(root, address):
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(20):
            while not await _answers(http, address):
                await asyncio.sleep(0.05)
        yield settings(address)


async def _answers(http: httpx.AsyncClient, address: str) -> bool:
    try:
        return bool((await http.get(f"http://{address}/")).status_code)
    except httpx.TransportError:
        return False


def settings(address: str, secret: str = SECRET) -> AssetSettings:
    return AssetSettings(
        asset_store_url="s3://pictures",
        asset_store_endpoint=f"http://{address}",
        asset_store_access_key_id=SecretStr(KEY_ID),
        asset_store_secret_access_key=SecretStr(secret),
    )


async def fetch(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(url)


async def test_s3_gives_the_file_itself_to_whoever_has_the_link(s3: AssetSettings) -> None:
    asset = await AssetStore(s3).open("samples/one.png")
    assert (asset.size_bytes, asset.content_type) == (len(CONTENT), "image/png")
    assert [chunk async for chunk in asset.chunks] == []
    answer = await fetch(asset.url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert SECRET not in asset.url


async def test_a_link_that_was_tampered_with_or_has_none_is_refused(s3: AssetSettings) -> None:
    url = httpx.URL((await AssetStore(s3).open("samples/one.png")).url)
    longer = url.copy_set_param("X-Amz-Expires", "604800")
    elsewhere = url.copy_with(path="/pictures/samples/two.png")
    for tampered in (longer, elsewhere, url.copy_with(query=None)):
        assert (await fetch(str(tampered))).status_code in REFUSED


async def test_a_link_lapses(s3: AssetSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_LINK", timedelta(seconds=1))
    url = (await AssetStore(s3).open("samples/one.png")).url
    async with asyncio.timeout(15):
        while (await fetch(url)).status_code not in REFUSED:
            await asyncio.sleep(0.2)


async def test_what_s3_does_not_have_or_does_not_let_us_see_is_unavailable(s3: AssetSettings) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        await AssetStore(s3).open("samples/none.png")
    wrong = settings((s3.asset_store_endpoint or "").removeprefix("http://"), secret="wrong")
    for store in (wrong, settings("127.0.0.1:1")):
        with pytest.raises(Unavailable, match="cannot be read"):
            await AssetStore(store).open("samples/one.png")


async def test_files_are_put_and_found(s3: AssetSettings, tmp_path: Path) -> None:
    for store in (AssetStore(s3), AssetStore(AssetSettings(asset_store_url=tmp_path.as_uri()))):
        assert not store.has("new/two.png")
        store.put("new/two.png", b"two")
        assert store.has("new/two.png")
        assert (await store.open("new/two.png")).size_bytes == 3


async def test_a_folder_gives_the_file_in_chunks(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(CONTENT)
    asset = await AssetStore(AssetSettings(asset_store_url=tmp_path.as_uri())).open("one.bin")
    chunks = [chunk async for chunk in asset.chunks]
    assert (asset.url, asset.content_type, b"".join(chunks)) == ("", "application/octet-stream", CONTENT)
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK_BYTES}


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "/secret", "link/../../secret", "", "a"])
async def test_a_key_that_leads_out_of_the_folder_opens_nothing(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_text("not yours")
    (tmp_path / "assets" / "a").mkdir(parents=True)
    store = AssetStore(AssetSettings(asset_store_url=(tmp_path / "assets").as_uri()))
    with pytest.raises(Unavailable, match="cannot be read"):
        await store.open(key)


@pytest.mark.parametrize("url", ["", "pictures", "file://host/x", "http://x.test/y", "s3://", "file:x"])
def test_another_kind_of_store_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="ASSET_STORE_URL"):
        AssetStore(AssetSettings(asset_store_url=url))
