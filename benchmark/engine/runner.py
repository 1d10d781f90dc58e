"""mmengine's Runner, which logs to a file alone and loads no foreign code."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.runner import Runner

from benchmark.engine import state
from benchmark.engine.contents import home
from benchmark.method import Method

LIBRARIES = ('mmengine', 'mmcv', 'mmseg', 'torch', 'warnings')
"""Packages whose own lines, such as hooks and deprecations, the log leaves out."""

_COUNTER = itertools.count()
_NO_DEFAULTS = dict.fromkeys(('runtime_info', 'timer', 'logger', 'checkpoint'))


class SilentRunner(Runner):
    """mmengine's Runner with its log in one file and nothing on the terminal.

    Args:
        device: Where to train, 'cpu' or 'cuda'.
        log_file: What this project logs, such as the curves of the losses, goes here.
        restore: Puts the Runner where an earlier one stopped, once it is ready to train.
        kwargs: The Runner's arguments.
    """

    def __init__(
        self,
        device: str,
        log_file: Path,
        restore: Callable[[Runner], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self._device, self._log_file, self._restore = device, home(log_file), restore
        # mmengine makes a folder that nothing needs; its name lets the next process sweep it.
        scratch = log_file.with_name('.part-runner')
        super().__init__(
            work_dir=str(scratch),
            experiment_name=f'run{next(_COUNTER)}',
            env_cfg={},
            default_hooks=dict(_NO_DEFAULTS),
            default_scope='mmseg',
            **kwargs,
        )
        shutil.rmtree(scratch, ignore_errors=True)

    def build_logger(self, log_level: int | str = 'INFO', **kwargs: Any) -> logging.Logger:
        """Builds the logger of this run, with its file as the only handler."""
        logger = super().build_logger(log_level, log_file=str(self._log_file), **kwargs)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        for handler in logger.handlers:
            handler.addFilter(_is_ours)
            # A log that a full disk does not take is no reason to print a traceback for each line.
            handler.handleError = lambda record: None
        return logger

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Returns what draws nothing; mmengine's loads matplotlib, which takes a second or two."""
        return SimpleNamespace(add_config=lambda config: None)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: Method) -> Method:
        """Moves the model to the chosen device."""
        return model.to(self._device)

    def load_or_resume(self) -> None:
        """Goes on from the state that was read; mmengine would unpickle whatever a file holds.

        Raises:
            Unusable: The state is none of this network's.
        """
        if self._restore is None:
            return
        try:
            self._restore(self)
        except Exception as error:  # a foreign state can lack or misspell anything
            raise state.Unusable(f'{type(error).__name__}: {error}') from error

    def close(self) -> None:
        """Closes the log file and takes it from the logger, which mmengine keeps as current."""
        for handler in self.logger.handlers:
            with contextlib.suppress(OSError):  # the last lines may not fit on a full disk
                handler.close()
        self.logger.handlers.clear()

    def dump_config(self) -> None:
        """Writes nothing: the record holds the configuration."""

    def _log_env(self, env_cfg: dict) -> None:
        """Skips mmengine's second of probing compilers; the record holds the environment."""

    def _init_model_weights(self) -> None:
        """Leaves the weights alone: they were drawn from their own generator."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Returns whether a line comes from this project or from a user's own method.

    A method logs through mmengine's `print_log`, so that the file that the record names is
    mmengine's. The caller behind the functions of logging decides.
    """
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get('__name__', '')
        if module != __name__ and not module.startswith(('logging', 'mmengine.logging')):
            return module.partition('.')[0] not in LIBRARIES
        frame = frame.f_back
    return True
