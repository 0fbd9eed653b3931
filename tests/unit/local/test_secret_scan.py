"""The scan for secrets sees files and history, and what was looked at once is known from then on."""

import secrets
import subprocess
from pathlib import Path

import pytest

from deploy import secret_scan


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    return tmp_path


def git(repository: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    subprocess.run(["git", *author, *arguments], cwd=repository, check=True)


def commit(repository: Path, path: str, text: str) -> None:
    (repository / path).write_text(text)
    git(repository, "add", path)
    git(repository, "commit", "--quiet", "--message", path)


def drawn() -> str:
    """A key as Amazon gives them out, which nobody has."""
    return f"AKIA{secrets.token_hex(8).upper()}"


def test_a_secret_is_seen_where_it_is_and_where_it_was(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(repository, "settings.py", f'key = "{drawn()}"\n')
    commit(repository, "settings.py", "key = None\n")
    (repository / "new.py").write_text(f'key = "{drawn()}"\n')
    (repository / "requirements.lock").write_text(f'key = "{drawn()}"\n')
    assert secret_scan.main([], repository) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(" (hash")[0] for line in told[:-1]] == [
        "new.py: AWS Access Key",
        "settings.py: AWS Access Key",
    ]
    assert "AKIA" not in "".join(told)


def test_what_somebody_looked_at_is_known_also_elsewhere_and_what_comes_after_it_is_not(
    repository: Path,
) -> None:
    (repository / "old.py").write_text(f'key = "{drawn()}"\n')
    looked_at = secret_scan.findings(repository)
    secret_scan.accept(looked_at, repository)
    (repository / "old.py").rename(repository / "moved.py")
    (repository / "new.py").write_text(f'key = "{drawn()}"\n')
    found = secret_scan.findings(repository)
    assert [secret.filename for secret in found] == ["moved.py", "new.py"]
    assert [secret.filename for secret in secret_scan.unknown(found, repository)] == ["new.py"]
