"""What the tests of methods share."""

import logging

import pytest


@pytest.fixture(autouse=True, scope='module')
def _small_networks():
    """Spares what building and computing small networks waits for most.

    oneDNN compiles a kernel for every new shape, which takes longer than the convolutions of these
    tests. The registries of mmengine log every layer that is built, for nobody.
    """
    import torch

    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    logging.disable(logging.DEBUG)
    yield
    logging.disable(logging.NOTSET)
    torch._C._set_mkldnn_enabled(enabled)
