"""What a task of Slurm does: it runs a command, and goes on with it after an interruption.

submitit pickles this module by value, so that a task needs nothing of this project to begin.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


class Task:
    """Runs a share of a command; submitit calls it, and `checkpoint` before its end.

    Args:
        command: The command and its arguments; the folders of the share follow them.
        folder: Where the command was typed.
    """

    def __init__(self, command: Sequence[str], folder: str) -> None:
        self.command, self.folder = list(command), folder

    def __call__(self, only: Sequence[str]) -> None:
        """Runs the share of the command.

        Args:
            only: Folders of what it runs, relative to the results folder.

        Raises:
            SystemExit: The command has failed; the state of the task tells so, and its log tells by
                which signal the command was ended, if it was.
        """
        # The signals that announce the end of the time, and a preemption with a grace time, go to
        # all processes of a task. submitit alone deals with them: the command, or a loader process
        # of it, that they ended would make a training fail. SIGKILL follows at the end.
        done = subprocess.run(
            [*self.command, *only],
            cwd=self.folder,
            check=False,
            preexec_fn=_ignore,
        )
        if done.returncode < 0:
            how = f'signal {-done.returncode} ({signal.strsignal(-done.returncode)})'
            why = ', for example for lack of memory' * (-done.returncode == signal.SIGKILL)
            print(f'error: the command was ended by {how}{why}', flush=True)
        if done.returncode:
            sys.exit(1)

    def checkpoint(self, only: Sequence[str]) -> Any:
        """Returns what runs when the task is started again: the same, from the last epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, only)


def _ignore() -> None:
    for announced in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(announced, signal.SIG_IGN)
