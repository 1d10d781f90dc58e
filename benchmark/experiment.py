"""One (method, dataset, protocol, seed) -> one record: teacher, training, selection, test."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mmcv
import mmengine
import mmseg
import numpy as np
import torch
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from benchmark import cost, records, training
from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.evaluation import HIGHER_IS_BETTER, SubsetEvaluator
from benchmark.loading import Samples, test_loader, train_loader
from benchmark.method import Method
from benchmark.missing import (
    Sampler,
    derive,
    hide,
    mask_hash,
    parse_rates,
    subset_ids,
)
from benchmark.protocol import Protocol
from benchmark.registry import METHODS, ROOT, lookup, resolve_options

COLLAPSE = 0.999
"""A subset whose predictions are one class to at least this share counts as collapsed."""

Report = Callable[[str, int, int, float], None]
"""Called with (stage, finished epochs, epochs, seconds of this stage so far)."""


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; nothing here may change a score's meaning.

    Attributes:
        device: 'cpu' or 'cuda'.
        workers: Loader processes for data that are read from disk.
    """

    device: str
    workers: int = 0


@dataclass(frozen=True)
class Experiment:
    """One row's one seed.

    Attributes:
        name: Registered name of the method.
        given: Options from the command line, as text.
        data: The dataset.
        protocol: The rules.
        seed: The seed.
        results: Results folder.
    """

    name: str
    given: tuple[tuple[str, str], ...]
    data: Dataset
    protocol: Protocol
    seed: int
    results: Path

    @property
    def method(self) -> type[Method]:
        """The method's class."""
        return lookup(METHODS, self.name)

    @property
    def label(self) -> str:
        """The row's name: the method with the options that were given."""
        tail = ','.join(f'{k}={v}' for k, v in sorted(self.given))
        return f'{self.name}:{tail}' if tail else self.name

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """Every hyper-parameter with the value that applies."""
        settings = self.method.settings.get(self.data.task.dataset, {})
        return resolve_options(self.method, self.name, dict(self.given), settings)

    @functools.cached_property
    def protocol_id(self) -> str:
        """The protocol's folder name on these data."""
        return self.protocol.id(self.data.fingerprint)

    @property
    def folder(self) -> Path:
        """Where this experiment's files go."""
        variant = self.label.replace(':', '-').replace('/', '_')
        where = self.results / 'runs' / self.data.name / variant / self.protocol_id
        return where / f'seed{self.seed}'

    @property
    def sampler(self) -> str:
        """The training sampler: the method's own where it has one."""
        return self.method.sampler or self.protocol.sampler

    def teacher(self) -> Experiment | None:
        """The experiment that trains this method's teacher: same data, protocol and seed."""
        if self.method.teacher is None:
            return None
        return dataclasses.replace(self, name=self.method.teacher, given=())

    def parts(self) -> list[tuple[Path, str, list[str] | None]]:
        """Returns (folder, sampler, subsets) of each network: one, or one per subset."""
        if not self.method.dedicated:
            return [(self.folder, self.sampler, None)]
        ids = subset_ids(self.data.task.names)
        return [(self.folder / s, f'only:{s}', [s]) for s in ids]

    def check(self) -> None:
        """Checks what can be checked without data.

        Raises:
            UserError: An option, the sampler or the rates do not fit the method and dataset.
        """
        assert self.options is not None
        names = self.data.task.names
        Sampler(self.protocol.sampler, names)
        parse_rates(self.protocol.rates or '0', names, f'rates={self.protocol.rates}')

    def header(self) -> dict[str, Any]:
        """Returns the part of the record that is known before anything runs."""
        task = self.data.task
        settings = self.method.settings.get(task.dataset)
        source = 'given' if self.given else 'paper settings' if settings else 'default'
        header: dict[str, Any] = {
            'schema': records.SCHEMA,
            'method': {
                'name': self.name,
                'label': self.label,
                'options': self.options,
                'version': self.method.version,
                'source': source,
            },
            'dataset': {
                'name': self.data.name,
                'options': self.data.options,
                'fingerprint': self.data.fingerprint,
                'kind': task.kind,
                'modalities': list(task.names),
                'classes': list(task.classes),
                'metric': task.metric,
                'higher_is_better': HIGHER_IS_BETTER[task.metric],
                'live': task.live,
                'ceiling': self.data.ceiling(),
                'chance': self.data.chance(),
            },
            'protocol': dataclasses.asdict(self.protocol),
            'protocol_id': self.protocol_id,
            'seed': self.seed,
        }
        return {**header, 'identity': records.identity(header)}

    def recorded(self) -> records.Record | None:
        """Returns this experiment's complete record, if there is one."""
        try:
            found = records.read(self.folder / 'record.json')
        except (records.RecordError, OSError):
            return None
        same = found['identity'] == self.header()['identity']
        return found if same and found['status'] == 'complete' else None


def run(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> records.Record:
    """Runs one experiment to its record, going on from wherever an earlier run stopped.

    Args:
        experiment: What to run.
        machine: Where to run it.
        report: Told about the progress.
        force: Train anew although a finished training exists.

    Returns:
        The record, which has been written.

    Raises:
        UserError: The method cannot train on these data, or the folder cannot be written.
        TrainingDiverged: A loss became NaN or infinite.
    """
    if force:
        for folder, _, _ in experiment.parts():
            _clear(folder)
    _prepare(machine)
    teacher = experiment.teacher()
    teacher_cost = {'seconds': 0.0, 'peak_memory_mb': 0.0}
    mentor = None
    if teacher is not None:
        stage = functools.partial(report, f'teacher {teacher.label}')
        mentor, teacher_cost = _train_part(teacher, teacher.parts()[0], machine, None, stage)
    trained = []
    for part in experiment.parts():
        stage = functools.partial(report, part[2][0] if part[2] else 'training')
        trained.append(_train_part(experiment, part, machine, mentor, stage))
    report('testing', 0, 0, 0.0)
    return _assemble(experiment, machine, trained, teacher_cost)


def _prepare(machine: Machine) -> None:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # Some CUDA kernels have no deterministic form; those warn instead of stopping the run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    if machine.device == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = False


def _clear(folder: Path) -> None:
    for name in ('resume.pth', 'best.pth', 'checkpoint.pth', 'trained.json'):
        (folder / name).unlink(missing_ok=True)


def build(experiment: Experiment, device: str) -> Method:
    """Returns the method with weights drawn from the experiment's seed alone."""
    logger = MMLogger.get_current_instance()
    with torch.random.fork_rng(devices=[]), _muted(logger):
        torch.manual_seed(derive(experiment.seed, 'weights'))
        method = experiment.method(experiment.data.task, **experiment.options)
        method.init_weights()
    return method.to(device)


@contextlib.contextmanager
def _muted(logger: logging.Logger) -> Iterator[None]:
    """Mmengine logs several lines per parameter at initialisation."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def gaps(experiment: Experiment, train: Split) -> np.ndarray:
    """Returns what of the training split may be read: what it has, less the protocol's gaps.

    Raises:
        UserError: The method needs complete data and these are not.
    """
    names = experiment.data.task.names
    rates = parse_rates(
        experiment.protocol.rates or '0', names, f'rates={experiment.protocol.rates}'
    )
    kept = hide(train.available, train.ids, rates, derive(experiment.seed, 'gaps'))
    if experiment.method.needs_complete and not kept.all():
        raise UserError(
            f'{experiment.label} on {experiment.data.name}: this method trains on complete samples '
            f'only, and {int((~kept.all(1)).sum())} of {len(kept)} training samples have gaps'
        )
    return kept


def loaders(
    experiment: Experiment, part: tuple[Path, str, list[str] | None], machine: Machine
) -> tuple[DataLoader, DataLoader]:
    """Returns the training and validation loaders of one network."""
    task, protocol = experiment.data.task, experiment.protocol
    train, val = _split(experiment.data, 'train'), _split(experiment.data, 'val')
    pin = machine.device == 'cuda'
    sampler = Sampler(part[1], task.names)
    samples = Samples(train, task, gaps(experiment, train), sampler, experiment.seed)
    held_out = Samples(val, task, val.available)
    return (
        train_loader(samples, protocol.batch_size, machine.workers, pin),
        test_loader(held_out, 2 * protocol.batch_size, machine.workers, pin),
    )


def _split(data: Dataset, name: str) -> Split:
    """Returns a split, kept on the dataset so that experiments share it."""
    kept = data.__dict__.setdefault('_splits', {})
    if name not in kept:
        kept[name] = data.split(name)
    return kept[name]


def _train_part(
    experiment: Experiment,
    part: tuple[Path, str, list[str] | None],
    machine: Machine,
    mentor: Method | None,
    report: Callable[[int, int, float], None],
) -> tuple[Method, dict[str, Any]]:
    """Returns one trained network and what is known of its training, from disk where finished."""
    folder, _, only = part
    identity = experiment.header()['identity']
    method = build(experiment, machine.device)
    done = folder / 'trained.json'
    summary = _finished(done, identity)
    if summary is None:
        make_folder(folder)
        if mentor is not None:
            method.set_teacher(mentor)
        epochs = experiment.protocol.epochs
        cost.reset_peak(machine.device)
        summary = training.train(
            method,
            loaders(experiment, part, machine),
            experiment.protocol,
            training.Job(folder, identity, experiment.seed, machine.device, only),
            lambda epoch, seconds: report(epoch, epochs, seconds),
        )
        summary['peak_memory_mb'] = cost.peak_memory(machine.device)
        training.save_atomically(method.state_dict(), folder / 'checkpoint.pth')
        with records.atomic(done) as file:
            file.write(json.dumps({'identity': identity, **summary}).encode())
        for leftover in ('resume.pth', 'best.pth'):
            (folder / leftover).unlink(missing_ok=True)
    weights = torch.load(folder / 'checkpoint.pth', map_location=machine.device, weights_only=True)
    method.load_state_dict(weights)
    return method.eval(), summary


def _finished(file: Path, identity: str) -> dict[str, Any] | None:
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    whole = summary.get('identity') == identity and (file.parent / 'checkpoint.pth').is_file()
    return summary if whole else None


def make_folder(folder: Path) -> None:
    """Makes a folder and checks that files can be written there.

    Raises:
        UserError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '.writable').touch()
        (folder / '.writable').unlink()
    except OSError as error:
        raise UserError(f'{folder}: cannot be written: {error.strerror}') from None


def _assemble(
    experiment: Experiment,
    machine: Machine,
    trained: list[tuple[Method, dict[str, Any]]],
    teacher_cost: dict[str, Any],
) -> records.Record:
    """Tests the trained networks and writes outcomes and record, the record last."""
    test = _split(experiment.data, 'test')
    started = time.perf_counter()
    tested = [
        _test_part(experiment, part, machine, method)
        for part, (method, _) in zip(experiment.parts(), trained, strict=True)
    ]
    seconds = time.perf_counter() - started
    scores = {s: score for e in tested for s, score in e.scores.items()}
    val = {s: v for _, summary in trained for s, v in summary['scores'].items()}
    record = {
        **experiment.header(),
        'status': 'complete',
        'scores': {
            'val': {s: v['metrics'] for s, v in val.items()},
            'test': {s: score.metrics for s, score in scores.items()},
        },
        'n': {
            'val': {s: v['n'] for s, v in val.items()},
            'test': {s: score.n for s, score in scores.items()},
        },
        'predicted': {s: list(score.predicted) for s, score in scores.items()},
        'collapsed': [s for s, score in scores.items() if max(score.predicted) >= COLLAPSE],
        'selected_epoch': max(summary['epoch'] for _, summary in trained),
        'gaps': _gap_report(experiment),
        'cost': {
            **_size(experiment, [method for method, _ in trained]),
            'train_seconds': sum(summary['seconds'] for _, summary in trained),
            'teacher_seconds': teacher_cost['seconds'],
            'test_seconds': seconds,
            'peak_memory_mb': max(
                summary['peak_memory_mb'] for summary in [teacher_cost, *(s for _, s in trained)]
            ),
        },
        **_circumstances(machine),
    }
    outcomes = _outcomes(experiment, test, tested)
    _keep_other(experiment)
    records.write_outcomes(experiment.folder / 'outcomes.npz', outcomes)
    records.write(experiment.folder / 'record.json', cast(records.Record, record))
    return cast(records.Record, record)


def _keep_other(experiment: Experiment) -> None:
    """Moves a record of another version of the method aside instead of overwriting it."""
    file = experiment.folder / 'record.json'
    with contextlib.suppress(records.RecordError):
        found = records.read(file)
        if found['identity'] != experiment.header()['identity']:
            file.rename(file.with_name(f'record-{found["identity"]}.json'))


def _test_part(
    experiment: Experiment,
    part: tuple[Path, str, list[str] | None],
    machine: Machine,
    method: Method,
) -> SubsetEvaluator:
    test = _split(experiment.data, 'test')
    samples = Samples(test, experiment.data.task, test.available)
    pin = machine.device == 'cuda'
    loader = test_loader(samples, 2 * experiment.protocol.batch_size, machine.workers, pin)
    return training.test(method, loader, part[0], machine.device, part[2])


def _gap_report(experiment: Experiment) -> dict[str, Any]:
    train = _split(experiment.data, 'train')
    kept = gaps(experiment, train)
    names = experiment.data.task.names
    return {
        'rates': {m: float(1 - kept[:, k].mean()) for k, m in enumerate(names)},
        'mask_hash': mask_hash(kept),
        'dropped': int((~kept.any(1)).sum()),
    }


def _outcomes(
    experiment: Experiment, test: Split, tested: list[SubsetEvaluator]
) -> dict[str, np.ndarray]:
    """Returns per-sample outcomes of every subset in the order of the test split."""
    arrays: dict[str, np.ndarray] = {}
    task = experiment.data.task
    for subset, found in ((s, o) for e in tested for s, o in e.outcomes.items()):
        rows = found['ids']
        if task.kind == 'segmentation':
            arrays[f'areas/{subset}'] = np.zeros((len(test), 3, len(task.classes)), np.int32)
            arrays[f'areas/{subset}'][rows] = found['areas']
            continue
        arrays[f'pred/{subset}'] = np.full(len(test), -1, np.int16)
        arrays[f'pred/{subset}'][rows] = found['pred']
        arrays[f'score/{subset}'] = np.full(len(test), np.nan, np.float32)
        arrays[f'score/{subset}'][rows] = found['score']
    if task.kind == 'classification':
        arrays['target'] = np.asarray(test.target[np.arange(len(test))]).astype(np.int16)
    return arrays


def _size(experiment: Experiment, methods: list[Method]) -> dict[str, Any]:
    """Returns parameters, those the deployed networks need, and FLOPs per subset."""
    flops: dict[str, int] = {}
    for (_, _, only), method in zip(experiment.parts(), methods, strict=True):
        flops.update(cost.flops(method, only))
    return {
        'parameters': sum(p.numel() for method in methods for p in method.parameters()),
        'deployed_parameters': sum(cost.deployed_parameters(method) for method in methods),
        'flops': flops,
    }


def _circumstances(machine: Machine) -> dict[str, Any]:
    on_gpu = machine.device == 'cuda'
    return {
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
        },
        'commit': _commit(),
        'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
    }


@functools.cache
def _commit() -> str:
    if shutil.which('git') is None:
        return 'unknown'
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12']
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or 'unknown'


def failure(experiment: Experiment, message: str, trace: str | None, machine: Machine) -> str:
    """Records a failed run, unless a complete record stands there already.

    Args:
        experiment: What failed.
        message: Why, in one line.
        trace: The traceback for the log, where it was no mistake of the user's.
        machine: Where it ran.

    Returns:
        Where to read more, for the terminal; empty if nothing could be written.
    """
    record = {**experiment.header(), 'status': 'failed', 'error': message}
    try:
        make_folder(experiment.folder)
        if trace is not None:
            with open(experiment.folder / 'train.log', 'a') as log:
                log.write(trace)
        if experiment.recorded() is None:
            records.write(experiment.folder / 'record.json', {**record, **_circumstances(machine)})
    except (UserError, OSError):
        return ''
    return f' (see {experiment.folder / "train.log"})' if trace is not None else ''
