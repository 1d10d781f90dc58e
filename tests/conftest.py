"""What the tests of a process share.

The libraries are imported in the fixtures: pytest-xdist reads this file in a process of its own,
which runs no tests, before it starts those that do.
"""

import contextlib
import gc
import importlib
import logging
import os
from multiprocessing import forkserver
from pathlib import Path

import pytest

LARGE = ('sympy', 'scipy.stats', 'sklearn.linear_model', 'matplotlib.figure', 'playwright.sync_api')
"""Libraries that the tests import, besides PyTorch and what is built on it."""


def pytest_configure():
    """Lets the second of several processes import other libraries first than the first one does.

    In a new environment they are not compiled yet. Whoever comes to a module later finds it
    compiled, where otherwise both processes would compile all of them at the same time.
    """
    if os.environ.get('PYTEST_XDIST_WORKER') == 'gw1':
        for name in LARGE:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def pytest_collectstart():
    """Looks for no garbage while the libraries are imported; nearly all that is made stays."""
    gc.disable()


def pytest_collection_finish():
    """Takes what has been imported out of the search for garbage.

    The libraries are very many objects, and they stay for as long as the process does.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


class Disk:
    """What was synced and renamed, in the order in which it happened.

    Attributes:
        unsynced: Files that were renamed into place before they were synced.
        renamed: Files that were renamed into place.
        settled: Those of them whose folder was synced afterwards.
        loose: File -> those that were renamed before it and not yet settled then.
    """

    def __init__(self):
        self.unsynced, self.renamed, self.settled, self.loose = [], [], set(), {}
        self._synced = set()

    def sync(self, handle):
        """Stands in for os.fsync; nothing is synced, because no test loses its power."""
        found = os.fstat(handle)
        self._synced.add((found.st_dev, found.st_ino))
        self.settled |= {path for path in self.renamed if self._is(found, path.parent)}

    def rename(self, real):
        """Returns what stands in for os.replace."""

        def replace(source, target):
            path = Path(target)
            found = os.stat(source)
            if (found.st_dev, found.st_ino) not in self._synced:
                self.unsynced.append(path)
            self.loose[path] = set(self.renamed) - self.settled
            real(source, target)
            self.renamed.append(path)

        return replace

    @staticmethod
    def _is(found, folder):
        there = folder.stat()
        return (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino)


@pytest.fixture
def disk(monkeypatch):
    """Watches every sync and every rename of the test's process."""
    watched = Disk()
    monkeypatch.setattr(os, 'fsync', watched.sync)
    monkeypatch.setattr(os, 'replace', watched.rename(os.replace))
    return watched


@pytest.fixture(autouse=True, scope='session')
def _own_cache(tmp_path_factory):
    """Keeps what tests remember of files out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True, scope='session')
def _unsynced():
    """Waits for no disk: no test loses its power; `disk` tells what would have been synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def _no_copies():
    """Makes sure that no test starts the process whose copies train, but in a fork or a program.

    Later forks of the test's process would inherit it, and could not use it.
    """
    yield
    assert forkserver._forkserver._forkserver_pid is None


@pytest.fixture(autouse=True, scope='session')
def _no_debugging():
    """Lets the registries of mmengine log for nobody that they build a layer, which takes time."""
    logging.disable(logging.DEBUG)


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    """Computes in one thread, since the processes of two suites would fight for the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope='session')
def _counted_once():
    """Counts the FLOPs of equal networks once, which takes as long as training them for an epoch.

    The tests of the counting import the function itself.
    """
    from benchmark.engine import cost

    real, counted = cost.flops, {}

    def flops(method, only=None):
        cls = type(method)
        shapes = [(name, x.shape) for name, x in method.state_dict().items()]
        key = repr((cls, cls.predict, cls.encode, cls.decode, method.task, shapes, only))
        if key not in counted:
            counted[key] = real(method, only)
        return dict(counted[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, 'flops', flops)
        yield


PAGE = ('test_page', 'test_columns', 'test_disk', 'test_streams')
"""Beginnings of the files whose tests look at the page of a results folder."""


@pytest.fixture(autouse=True, scope='module')
def _page_where_it_is_looked_at(request):
    """Writes the page of all results in tests of the page alone: most commands end with it."""
    from benchmark.report.page import document

    with pytest.MonkeyPatch.context() as patch:
        if not request.path.stem.startswith(PAGE):
            patch.setattr(document, 'show', lambda results: True)
        yield
