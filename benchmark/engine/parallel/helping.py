"""What the processes of `torchrun` other than the leading one do."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmark.engine import training
from benchmark.engine.building import Machine, build, loader_of, loaders
from benchmark.engine.execution import deterministic
from benchmark.engine.experiment import Experiment
from benchmark.engine.parallel import processes
from benchmark.engine.parallel.sections import TRAIN, Order
from benchmark.errors import UserError


def check(experiments: Iterable[Experiment]) -> None:
    """Checks that there is a sample for each process in every batch.

    Raises:
        UserError: There is not.
    """
    count = processes.count()
    for e in experiments:
        if e.protocol.batch_size < count:
            raise UserError(
                f'batch_size on {e.data.name}: expected one sample or more for each of '
                f'{count} processes, found {e.protocol.batch_size}'
            )


def help_out(experiments: Iterable[Experiment], machine: Machine) -> int:
    """Helps the leading process with its trainings and tests until its command ends.

    Nothing is written in the results folder here.

    Args:
        experiments: What the command may run.
        machine: Where this process computes.

    Returns:
        The exit status of the command.
    """
    known = {x.folder: x for e in experiments for x in (*e.earlier.values(), e)}
    deterministic(machine)
    while True:
        try:
            order = processes.hear()
            if not isinstance(order, Order):
                return order
            with processes.together(), tempfile.TemporaryDirectory() as folder:
                _help(order, known[order.folder], machine, Path(folder))
        except (Exception, SystemExit) as error:  # code of a method may end the interpreter
            processes.stopped(error)


def _help(order: Order, known: Experiment, machine: Machine, folder: Path) -> None:
    """Computes this process's share of what was ordered.

    Args:
        order: The order.
        known: The experiment as this process has planned it.
        machine: Where this process computes.
        folder: An empty folder.
    """
    experiment = dataclasses.replace(known, options=order.options)
    part, device = experiment.parts[order.part], machine.device
    only = experiment.subsets_of(part)
    method = build(experiment, device)
    if order.teacher is not None and experiment.teacher is not None:
        teacher = build(experiment.teacher, device)
        teacher.load_state_dict(order.teacher)
        method.set_teacher(teacher)
    method.load_state_dict(order.weights)
    if order.task != TRAIN:
        loader = loader_of(experiment, machine, order.task)
        training.test(method.eval(), loader, folder, device, only)
        return
    job = training.Job(folder, '', experiment.seed, device, only, machine.curves)
    data = loaders(experiment, part, machine)
    training.train(method, data, experiment.protocol, job, lambda *_: None)
