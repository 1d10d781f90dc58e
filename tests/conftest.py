"""One thread a test process: on two cores the tests of two suites would fight for them."""

import warnings

import torch

torch.set_num_threads(1)
warnings.filterwarnings('ignore', message='Fail to import')
