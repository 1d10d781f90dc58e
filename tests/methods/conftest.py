"""What the tests of methods share."""

import pytest


@pytest.fixture(autouse=True, scope='module')
def _small_networks():
    """Spares small networks the compiling.

    oneDNN compiles a kernel for every new shape, which takes longer than the convolutions of these
    tests.
    """
    import torch

    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(enabled)
