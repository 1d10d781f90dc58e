"""The circumstances of a run that its record states: software versions, device, commit."""

from __future__ import annotations

import datetime
import functools
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import mmcv
import mmengine
import mmseg
import numpy as np
import torch

from benchmark.engine.parallel import processes
from benchmark.files import ROOT


def circumstances(device: str, grid: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the environment, the commit and the time, for a record.

    Args:
        device: 'cpu' or 'cuda'.
        grid: Name and hash of the grid that asked for the run, if one did.
    """
    on_gpu = device == 'cuda'
    return {
        **({'grid': dict(grid)} if grid else {}),
        'environment': {
            'python': platform.python_version(),
            'torch': torch.__version__,
            'mmengine': mmengine.__version__,
            'mmcv': mmcv.__version__,
            'mmseg': mmseg.__version__,
            'numpy': np.__version__,
            'platform': platform.platform(terse=True),
            'threads': str(torch.get_num_threads()),
            'device': torch.cuda.get_device_name() if on_gpu else 'cpu',
            **({'processes': str(count)} if (count := processes.count()) > 1 else {}),
        },
        'commit': commit(),
        'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    }


@functools.cache
def commit() -> str:
    """Returns the commit of this code, with `-dirty` where files differ; 'unknown' without one."""
    if shutil.which('git') is None:
        return 'unknown'
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12']
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or 'unknown'
