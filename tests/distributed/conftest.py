from collections.abc import Iterator

import pytest

from tests.distributed.ranks import TwoRanks


@pytest.fixture(scope="session")
def on_two_ranks() -> Iterator[TwoRanks]:
    """Two processes for all tests that do not ask how processes are started."""
    ranks = TwoRanks()
    yield ranks
    ranks.stop()
