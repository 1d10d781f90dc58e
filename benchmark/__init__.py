"""Trains, tests and tabulates methods; the names of methods and data sets come from registries."""

import warnings

# On import mmcv announces that an optional compiled operator, which nothing here uses, is absent.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
# The records promise the same numbers on the same machine up to those kernels, once and for all.
warnings.filterwarnings('ignore', message='.*does not have a deterministic implementation')
