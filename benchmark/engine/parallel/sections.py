"""The parts of a run that several processes compute together: trainings and tests.

The leading process runs a command as one process does. Where it comes to a training or a test, it
orders the others to help (`shared`); `parallel.helping` is what they do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from benchmark.engine.contents import home
from benchmark.engine.experiment import Experiment, Part
from benchmark.engine.parallel import exchange, processes
from benchmark.method import Method

TRAIN = 'train'
"""The task of an order that is no test of a split."""


@dataclass(frozen=True)
class Order:
    """What the leading process wants help with.

    Attributes:
        task: 'train', or the split that is predicted: 'val' or 'test'.
        folder: The folder of the experiment, by which all processes know it.
        options: The options of the method, which a search may have chosen.
        part: Which of the experiment's networks is meant.
        weights: Its state.
        teacher: The state of the teacher, if it has one.
    """

    task: str
    folder: Path
    options: dict[str, Any]
    part: int
    weights: dict[str, Tensor]
    teacher: dict[str, Tensor] | None


@contextlib.contextmanager
def shared(task: str, experiment: Experiment, part: Part, method: Method) -> Iterator[None]:
    """Makes all processes compute the training or the test in the block.

    Args:
        task: As in `Order`.
        experiment: The experiment.
        part: The network of the experiment.
        method: The network, which has its teacher already.
    """
    if processes.count() == 1:
        yield
        return
    teacher = method._teacher[0].state_dict() if method._teacher and task == TRAIN else None
    number = [p.folder for p in experiment.parts].index(part.folder)
    weights = _on_cpu(method.state_dict())
    # The others know a run that is done again by the folder of the finished one.
    place = home(experiment.folder)
    about = place, experiment.options, number, weights, teacher and _on_cpu(teacher)
    processes.say(Order(task, *about))
    with processes.stopping(), processes.together():
        yield


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().cpu() for name, x in state.items()}


class InStep(Hook):
    """Keeps the processes of a training together: none begins an epoch before the leading one.

    What fails between epochs in the leading process, such as a checkpoint on a full disk, reaches
    the others so. They also take over its weights: on a GPU some operations round differently each
    time.
    """

    priority = 'LOWEST'

    def before_train_epoch(self, runner: Runner) -> None:
        """Waits for the leading process."""
        if processes.world() > 1:
            processes.told(lambda: None)
            exchange.take_over(
                x.data for x in (*runner.model.parameters(), *runner.model.buffers())
            )
