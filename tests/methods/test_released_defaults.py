"""Values of constructors that papers or released code give, beside the figures of these sources."""

import inspect

import pytest

from benchmark.registry import METHODS, discover

discover()

SOURCES = {
    # Sun et al., AAAI 2024, run script of the released code; interval and memory in its model.
    'redcore': {'imagination': 0.15, 'kl': 8e-4, 'memory': 0.7, 'interval': 3},
    # Liu et al., AAAI 2023: patches that pretraining masks.
    'm3ae': {'mask_ratio': 0.875},
    # Chen et al., MICCAI 2019: weights of the L1 error and of the divergence in the released code.
    'robustseg': {'reconstruction': 0.1, 'divergence': 0.1},
    # Zhang et al., MICCAI 2022: of the transformers in the released code.
    'mmformer': {'dropout': 0.1},
    # Wei, Luo & Luo, CVPR 2023: CASIA-SURF.
    'mmanet': {'alpha': 30, 'beta': 0.5},
    # Wang et al., CVPR 2023: classification in the released code.
    'shaspec': {'alpha': 0.1, 'beta': 0.02},
}


@pytest.mark.parametrize('name', sorted(SOURCES))
def test_defaults_are_those_of_the_sources(name):
    parameters = inspect.signature(METHODS.module_dict[name].__init__).parameters
    assert {key: parameters[key].default for key in SOURCES[name]} == SOURCES[name]
