"""How long experiments will take, from a few steps measured on this machine."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import torch
from mmengine.optim import BaseOptimWrapper, build_optim_wrapper

from benchmark.dataset import Dataset
from benchmark.engine import cost, noise, state, validating
from benchmark.engine.building import Machine, build, loader_of, loaders, quiet
from benchmark.engine.compiling import compiled
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.execution import deterministic
from benchmark.engine.experiment import Experiment, Part
from benchmark.engine.fitting import check_size, is_fitted
from benchmark.engine.hooks import SHARE
from benchmark.engine.loading import Samples
from benchmark.engine.pace import measure, now
from benchmark.engine.state import epochs_done, is_trained
from benchmark.engine.timetable import Expected
from benchmark.engine.training import optim_wrapper
from benchmark.errors import UserError
from benchmark.method import Batch, Method


@dataclass(frozen=True)
class Training:
    """How long one network trains.

    Attributes:
        epoch: Seconds of the steps of an epoch, and of saving their result.
        validation: Seconds of a validation during the training.
        validated: The epochs, counted from 1, after which there is one; the last epoch is the last.
        saving: Seconds that the first and the last save take longer than what `epoch` holds.
    """

    epoch: float
    validation: float
    validated: Sequence[int]
    saving: float = 0.0

    def seconds(self, done: int = 0) -> float:
        """Returns the seconds that are left after some epochs and their validations."""
        left = self.validated[-1] - done
        saves = min(left, 1 if done else 2)
        validations = sum(n > done for n in self.validated)
        return self.epoch * left + self.saving * saves + self.validation * validations


class Measured(NamedTuple):
    """How long the parts of an experiment take.

    Attributes:
        earlier: 'pretraining' and 'teacher', where there are such, -> their trainings.
        training: The training of one network.
        tests: Seconds in which one network predicts the validation and the test split at the end.
        beside: Seconds in which one network is built, and its FLOPs are counted.
    """

    earlier: dict[str, Training]
    training: Training
    tests: float
    beside: float = 0.0


@dataclass
class Forecast:
    """Forecasts a list of experiments; what several of them share is counted once.

    Attributes:
        machine: Where they will run.
        trained: Folders of the networks that are counted already.
    """

    machine: Machine
    trained: frozenset[Path] = frozenset()
    _measured: dict[tuple[str, str, str, str], Measured] = field(default_factory=dict)

    def is_measured(self, e: Experiment) -> bool:
        """Returns whether the steps of an experiment, or of one that serves it, are measured."""
        return _key(e) in self._measured

    def expected(self, e: Experiment, tests: bool = True) -> Expected:
        """Returns how long an experiment will take after those asked about before.

        Args:
            e: The experiment; one measurement serves all seeds and trials of a method under
                a protocol.
            tests: Whether it is tested; a trial is not.
        """
        key = _key(e)
        if key not in self._measured:
            with quiet():
                self._measured[key] = self._measure(e)
        measured = self._measured[key]
        seconds = {
            x.folder: measured.earlier[kind].seconds(_epochs_done(x.parts[0], x))
            for kind, x in e.earlier.items()
        }
        seconds |= {p.folder: measured.training.seconds(_epochs_done(p, e)) for p in e.parts}
        new = [folder for folder in seconds if folder not in self.trained]
        ends = itertools.accumulate(seconds[folder] for folder in new)
        trains = dict(zip(new, ends, strict=True))
        # A teacher that is a row of its own may be trained for a student before it.
        needs = self.trained & seconds.keys()
        self.trained |= {*new}
        last = measured.tests + measured.beside
        whole = sum(seconds[folder] for folder in new) + (len(e.parts) * last if tests else 0.0)
        return Expected(whole, trains, needs)

    def _measure(self, e: Experiment) -> Measured:
        """Measures steps and validations, on a machine that is set up as for a run.

        How long a fit takes that has no steps is not known; it counts as no time.
        """
        deterministic(self.machine)
        start, earlier = now(self.machine.device), dict[str, Training]()
        method = build(e, self.machine.device)
        built = now(self.machine.device) - start
        if is_fitted(e.method):
            check_size(e)
            last = [e.protocol.epochs]
            each, tests = _validation(method, e, e.parts[-1], self.machine, last)
            beside = built + _counting(method, e, self.machine)
            return Measured(earlier, Training(0.0, each, last), tests, beside)
        for kind, x in e.earlier.items():
            network = build(x, self.machine.device)
            earlier[kind], _ = forecast(network, x, x.parts[0], self.machine)
            if x is e.teacher:
                method.set_teacher(network)
        found = forecast(method, e, e.parts[-1], self.machine)
        return Measured(earlier, *found, built + _counting(method, e, self.machine))


def _key(e: Experiment) -> tuple[str, str, str, str]:
    """Returns what experiments have in common whose steps take as long."""
    fixed = sorted((k, v) for k, v in e.options.items() if k not in e.tunable)
    return e.data.name, e.protocol_id, e.name, str(fixed)


def resumed(e: Experiment) -> list[str]:
    """Tells which stopped trainings an experiment goes on from, and at which epoch."""
    networks = [(part.only[0] if part.only else 'it', part, e) for part in e.parts]
    before = {'pretraining': 'its pre-training', 'teacher': 'its teacher'}
    networks = [(before[kind], x.parts[0], x) for kind, x in e.earlier.items()] + networks
    done = [(who, _epochs_done(part, x), x.protocol.epochs) for who, part, x in networks]
    return [f'{who} resumes at epoch {n + 1} of {total}' for who, n, total in done if 0 < n < total]


def _epochs_done(part: Part, e: Experiment) -> int:
    identity = e.identity_of(part)
    if is_trained(part.folder, identity):
        return e.protocol.epochs
    return min(epochs_done(part.folder, identity), e.protocol.epochs)


def forecast(method: Method, e: Experiment, part: Part, machine: Machine) -> tuple[Training, float]:
    """Measures a few steps and validated batches of an untrained method.

    Args:
        method: The method, with a teacher where it has one; its weights change.
        e: What trains it.
        part: Which of the experiment's networks it is.
        machine: Where.

    Returns:
        How long its training takes, and the seconds of the predictions at the end.
    """
    if machine.compiled:
        compiled(method)
    protocol = e.protocol
    every = validating.interval(type(method), protocol, machine.curves)
    validated = validating.validated(protocol.epochs, every)
    validation, tests = _validation(method, e, part, machine, validated)
    loader, _ = loaders(e, part, machine)
    samples = cast(Samples, loader.dataset)
    method.data_preprocessor.augment = noise.augmentation(samples, protocol.vector_noise)
    wrapper = build_optim_wrapper(method.train(), optim_wrapper(protocol))
    pace = measure(loader, lambda b: method.train_step(b, optim_wrapper=wrapper), machine.device)
    steps = pace.seconds(len(loader))
    whole = _saving(method, wrapper, machine.device)
    each = min(whole, SHARE * steps)
    return Training(steps + each, validation, validated, whole - each), tests


def _counting(method: Method, e: Experiment, machine: Machine) -> float:
    """Returns the seconds in which the FLOPs of all tested subsets are counted, by two of them."""
    if machine.compiled:  # it would be compiled again
        return 0.0
    some = list(dict.fromkeys((e.subsets[0], e.subsets[-1])))
    cost.flops(method, some)  # the first count of a process takes far longer
    start = now(machine.device)
    cost.flops(method, some)
    return (now(machine.device) - start) * len(e.subsets) / len(some)


def _saving(method: Method, wrapper: BaseOptimWrapper, device: str) -> float:
    """Returns the seconds in which the state of a training is saved, as after an epoch.

    It is written to a temporary folder, since nothing is trained; if there is no room, it counts
    as no time.
    """
    content = {'state_dict': method.state_dict(), 'optimizer': wrapper.state_dict()}
    start = now(device)
    try:
        with tempfile.TemporaryDirectory() as folder:
            state.save(content, Path(folder) / state.RESUME)
            return now(device) - start
    except (OSError, UserError):
        return 0.0


def _validation(
    method: Method, e: Experiment, part: Part, machine: Machine, validated: Sequence[int]
) -> tuple[float, float]:
    """Measures a validation, and puts the method in the state that it has in the last epoch.

    Loss terms that start late are timed then. All validations of the training are given the scores
    of the measured batches, for methods that mine there.

    Returns:
        Seconds of a validation, and of the predictions of both splits at the end.
    """
    loader = loader_of(e, machine, 'val')
    samples = cast(Samples, loader.dataset)
    evaluator = SubsetEvaluator(method.task, e.subsets_of(part), samples.split)
    masks = list(evaluator.masks.values())
    sizes: list[int] = []

    @torch.no_grad()
    def predict(batch: Batch) -> None:
        sizes.append(len(batch.ids))
        batch = method.data_preprocessor(batch, False)
        for mask, logits in subset_logits(method, batch, masks):
            evaluator.process_subset(mask, logits, batch)

    method.eval()
    pace = measure(loader, predict, machine.device)
    start = now(machine.device)
    evaluator.evaluate(sum(sizes))  # how many samples there are makes next to no difference
    scored = now(machine.device)
    method.epochs = e.protocol.epochs
    for after in validated:
        method.epoch = after - 1
        method.on_validation(evaluator.scores)
    heard = (now(machine.device) - scored) / len(validated)
    counts = len(samples), _tested(e.data, len(samples))
    val, test = (pace.seconds(count / sizes[0]) + scored - start for count in counts)
    return val + heard, val + test


def _tested(data: Dataset, validated: int) -> int:
    """Returns how many test samples there are, as far as that is known.

    The test split is not opened. Its size is that of the option `test` of a data set that has one,
    as generated data do, or else that of the published split, for each validation sample of the
    published splits where their number is known, too. Without both it is taken to be as large as
    the validation split.

    Args:
        data: The data set.
        validated: Number of its validation samples.
    """
    option, published = data.options.get('test'), data.published_sizes
    if isinstance(option, int) and not isinstance(option, bool):
        return option
    if 'test' not in published:
        return validated
    return round(published['test'] * validated / published.get('val', validated))
