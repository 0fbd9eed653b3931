"""The private port: what it answers, and when certificates end."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from deploy import pki
from deploy.local.ports import HOST
from services.chassis.metrics import serving_metrics
from tests.integration.chassis.test_grpc import free_address
from tests.support.metrics import scrape, value

_ENDS_AT = "aishop_tls_certificate_expiry_timestamp_seconds"


def test_a_certificate_tells_its_end_and_an_unreadable_one_is_as_good_as_expired(tmp_path: Path) -> None:
    issued, life = datetime.now(UTC), timedelta(days=7)
    pki.write_leaf(tmp_path, pki.new_authority(issued), "wallet", hosts=(), now=issued, life=life)
    certificate, listen = tmp_path / "tls.crt", free_address()
    with serving_metrics(listen, {"own": certificate}):
        assert scrape(f"http://{listen}/metrics")
        assert abs(value(_ENDS_AT, certificate="own") - (issued + life).timestamp()) < 600
        certificate.write_text("garbage")
        assert value(_ENDS_AT, certificate="own") == 0
        certificate.unlink()
        assert value(_ENDS_AT, certificate="own") == 0
    with pytest.raises(httpx.ConnectError):
        scrape(f"http://{listen}/metrics")


def test_nobody_listens_when_no_address_is_given() -> None:
    with serving_metrics("", {}):
        pass


def test_a_busy_port_is_an_error(unused_tcp_port: int) -> None:
    listen = f"{HOST}:{unused_tcp_port}"
    with serving_metrics(listen, {}), pytest.raises(OSError, match="in use"), serving_metrics(listen, {}):
        pass
