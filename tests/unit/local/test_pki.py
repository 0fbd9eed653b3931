"""The development authority: what it issues, and what a second run leaves alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deploy import pki
from services.chassis.transport import Certificates, TlsFiles

NOW = datetime(2030, 1, 1, tzinfo=UTC)
EVERYONE = list(pki.PROCESSES)


def test_each_process_gets_a_certificate_of_its_own_name(tmp_path: Path) -> None:
    assert pki.issue_all(tmp_path, NOW) == ["authority", *EVERYONE]
    authority = x509.load_pem_x509_certificate((tmp_path / "authority" / "ca.crt").read_bytes())
    for process in EVERYONE:
        folder = tmp_path / process
        pem = Certificates(TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")).pem
        certificate = x509.load_pem_x509_certificate(pem.certificate)
        certificate.verify_directly_issued_by(authority)
        assert certificate.not_valid_after_utc == NOW + timedelta(days=30)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [process]
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"aishop://{process}"]
        assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    keys = [*tmp_path.glob("*/*.key")]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


@pytest.mark.parametrize(
    ("days", "renewed"), [(0, []), (19, []), (20, EVERYONE), (699, EVERYONE), (700, ["authority", *EVERYONE])]
)
def test_a_second_run_renews_what_nears_its_end(tmp_path: Path, days: int, renewed: list[str]) -> None:
    pki.issue_all(tmp_path, NOW)
    later = NOW + timedelta(days=days)
    assert pki.issue_all(tmp_path, later) == renewed
    assert pki.issue_all(tmp_path, later) == []


def test_a_run_that_was_cut_off_is_made_whole(tmp_path: Path) -> None:
    pki.issue_all(tmp_path, NOW)
    (tmp_path / "wallet" / "tls.crt").unlink()
    (tmp_path / "orders" / "tls.key").write_bytes((tmp_path / "payments" / "tls.key").read_bytes())
    assert pki.issue_all(tmp_path, NOW) == ["wallet", "orders"]
    (tmp_path / "authority" / "ca.key").unlink()
    assert pki.issue_all(tmp_path, NOW) == ["authority", *EVERYONE]
