"""One thread a test process: on two cores the tests of two suites would fight for them."""

import torch

torch.set_num_threads(1)
