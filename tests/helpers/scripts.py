"""Runs the scripts of the project as a shell does, without importing all libraries once more."""

import os
import runpy
import sys
from pathlib import Path

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
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        os._exit(_run(ROOT / script, list(map(str, words)), cwd, searched))
    os.close(out_end)
    os.close(err_end)
    # What these scripts say fits into a pipe, so that one can be read after the other.
    texts = [Path(f'/dev/fd/{end}').read_text(encoding='utf-8') for end in (out, err)]
    os.close(out)
    os.close(err)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), *texts


def _run(script, words, cwd, searched):
    """Returns the exit status of a script that is run in this process."""
    sys.stdout, sys.stderr = (open(k, 'w', encoding='utf-8', closefd=False) for k in (1, 2))  # noqa: SIM115
    # What pytest added to the path of this process.
    added = (ROOT, ROOT / 'tests' / 'helpers')
    others = [folder for folder in sys.path if Path(folder).resolve() not in added]
    sys.path[:] = [str(script.parent), *map(str, searched), *others]
    os.chdir(cwd)
    for name, module in list(sys.modules.items()):
        if (getattr(module, '__file__', None) or '').startswith(OURS):
            del sys.modules[name]
    sys.argv[:] = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name='__main__')
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        sys.stderr.write(repr(error))
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
