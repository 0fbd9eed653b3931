"""Each overlay, rendered once."""

from functools import cache

import pytest

from deploy.k8s.manifests import OVERLAYS
from tests.support.cluster import Cluster

_cluster_of = cache(Cluster)


@pytest.fixture(params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return _cluster_of(request.param)


@pytest.fixture
def production() -> Cluster:
    return _cluster_of("production")


@pytest.fixture
def dev() -> Cluster:
    return _cluster_of("dev")
