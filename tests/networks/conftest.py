"""Planted runs and a fit to them."""

import pytest
from planted import GEOMETRY, K, planted_runs


@pytest.fixture(scope="module")
def planted():
    """Runs and their maps."""
    return planted_runs(GEOMETRY.n_neurons, K)


@pytest.fixture(scope="module")
def fitted(planted):
    """CanICA with default settings."""
    from llmbrain.networks import CanICA

    return CanICA(K, geometry=GEOMETRY).fit(planted[0])
