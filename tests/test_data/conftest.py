import pytest

from .helpers import Data


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)
