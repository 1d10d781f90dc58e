"""What the tests of the engine share."""

import math

import pytest

from benchmark.engine import hooks


@pytest.fixture(scope='module', autouse=True)
def every_epoch_is_saved():
    """Saves after every epoch, so that a test can stop a training of milliseconds after any one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, 'SHARE', math.inf)
        yield
