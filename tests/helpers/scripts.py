"""Runs the scripts of the project as a shell does, without importing all libraries once more."""

import os
import runpy
import sys
import tempfile
from functools import partial
from pathlib import Path

from forks import status_of

from benchmark.files import ROOT

OURS = tuple(
    f'{ROOT / folder}{os.sep}' for folder in ('benchmark', 'datasets', 'methods', 'tests', 'tools')
)


def run_script(script, words, cwd, searched=()):
    """Runs a script in a fork of this process, which has imported the libraries already.

    The project itself is imported anew, from where the script looks for it.

    Args:
        script: The script, relative to the root of the project.
        words: What follows it on the command line.
        cwd: The folder in which it is run.
        searched: Folders that PYTHONPATH names.

    Returns:
        The exit status and what was written to stdout and stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, 'told'), Path(folder, 'errors')
        action = partial(_run, ROOT / script, list(map(str, words)), cwd, searched)
        status = status_of(action, *told)
        return status, *(file.read_text(encoding='utf-8') for file in told)


def _run(script, words, cwd, searched):
    """Runs a script in this process."""
    # What pytest added to the path of this process.
    added = (ROOT, ROOT / 'tests' / 'helpers')
    others = [folder for folder in sys.path if Path(folder).resolve() not in added]
    sys.path[:] = [str(script.parent), *map(str, searched), *others]
    os.chdir(cwd)
    for name, module in list(sys.modules.items()):
        if (getattr(module, '__file__', None) or '').startswith(OURS):
            del sys.modules[name]
    sys.argv[:] = [str(script), *words]
    runpy.run_path(str(script), run_name='__main__')
