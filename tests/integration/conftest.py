"""A running broker for the tests that need one; it starts in a tenth of a second."""

from collections.abc import Iterator

import pytest

from whiteboard.embedded import EmbeddedStack
from whiteboard.eventlog import create_topics
from whiteboard.settings import Settings


def _broker(factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with EmbeddedStack(Settings(home=factory.mktemp("home"))) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        yield settings


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with a running broker and all topics, shared by the whole run: other tests have written to it too."""
    yield from _broker(tmp_path_factory)


@pytest.fixture(scope="module")
def module_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with a broker whose topics only this module writes to."""
    yield from _broker(tmp_path_factory)


@pytest.fixture
def fresh_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings with a broker whose topics are empty."""
    yield from _broker(tmp_path_factory)
