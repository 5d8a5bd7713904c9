"""Fixtures of the tests of bulk scoring."""

from pathlib import Path

import pytest

from tests.pipeline.scoring.kit import write_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `write_digits`; tests must not change it."""
    return write_digits(tmp_path_factory.mktemp("digits"))
