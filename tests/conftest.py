"""Settings of the whole suite."""

import pytest

import fastrnn as fr


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    """A test with this fixture runs once on one thread and once on two."""
    with fr.num_threads(min(request.param, 2)):
        yield request.param
