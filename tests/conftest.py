"""The servers and the whole stack that tests share; each is started when first asked for."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from xdist.remote import Producer

from deploy.local.ephemeral import RunningStack, running_stack
from tests.support import proofs
from tests.support.groups import GroupScheduling, group_of, place_of
from tests.support.prepared import prepared_folder, prepared_servers
from tests.support.servers import Servers
from tests.support.spills import spills

# Up to thirty services wait beside the one under test; at fifty looks a second into its outbox each would
# take 3 % of a core. Who commits wakes the relay, so that nothing waits for this.
os.environ["RELAY_POLL_SECONDS"] = "0.25"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which the workers take groups of tests."""
    items.sort(key=lambda item: place_of(group_of(item.nodeid)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """Whatever `--dist` says."""
    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The numbers of the proofs, and a copy of them in a file."""
    reports = [
        report for of_outcome in ("passed", "failed") for report in terminalreporter.getreports(of_outcome)
    ]
    counted = [
        proofs.Proof(report.nodeid, report.outcome, report.duration, dict(report.user_properties)["proof"])
        for report in reports
        if report.when == "call" and "proof" in dict(report.user_properties)
    ]
    if counted:
        terminalreporter.section("proofs")
        for line in proofs.report(counted):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A data folder with every database and role, nothing migrated: copies of it start without initdb."""
    base = tmp_path_factory.getbasetemp()
    return prepared_servers(base if worker_id == "master" else base.parent)


@pytest.fixture(scope="session")
def prepared_databases(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The same, migrated and seeded."""
    base = tmp_path_factory.getbasetemp()
    return prepared_folder(base if worker_id == "master" else base.parent)


@pytest.fixture(scope="session")
def servers(worker_id: str, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Postgres, NATS and Valkey with every database and role, nothing migrated."""
    # Alone: there may be nobody to share with.
    prepared = None if worker_id == "master" else request.getfixturevalue("empty_databases")
    with running_stack(servers_only=True, prepared=prepared) as stack:
        yield Servers(stack)


@pytest.fixture(scope="session")
def fresh_stack(
    worker_id: str, request: pytest.FixtureRequest
) -> Callable[[], AbstractContextManager[RunningStack]]:
    """Starts a shop of one's own, for tests that harm it."""
    if worker_id == "master":
        # Alone: there may be nobody to share with.
        return running_stack
    return partial(running_stack, prepared=request.getfixturevalue("prepared_databases"))


@pytest.fixture(scope="session")
def stack_to_harm(fresh_stack: Callable[[], AbstractContextManager[RunningStack]]) -> Iterator[RunningStack]:
    """A shop whose parts are killed and held by those who put everything right again: the audit finds nothing
    after any of them."""
    with fresh_stack() as running:
        yield running


@pytest.fixture(scope="session")
def stack(fresh_stack: Callable[[], AbstractContextManager[RunningStack]]) -> Iterator[RunningStack]:
    """The whole shop. Tests that use it leave it whole: they harm nothing and use users of their own. After
    the last of them nobody's secrets are in its logs."""
    with fresh_stack() as running:
        yield running
        assert spills(running.data) == []
