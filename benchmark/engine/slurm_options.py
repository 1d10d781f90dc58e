"""What `--slurm` asks of the scheduler: words or a file, read before anything is planned."""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.engine.yaml_file import opened
from benchmark.errors import UserError, unknown
from benchmark.files import user_path
from benchmark.options import keyed

COMMANDS = ('sbatch', 'scancel', 'scontrol', 'squeue', 'srun')
"""Commands of Slurm that are needed where a command is typed."""

GPUS = ('gpus', 'gpus_per_node', 'gpus_per_task')
"""Options that ask for a GPU, as gres=gpu does."""

NUMBER_OF_GPUS = re.compile(r'(?:[\w.-]+:)?[1-9][0-9]{0,5}(?:,[\w.-]+:[1-9][0-9]{0,5})*')
"""How many GPUs are asked for, of some type if one is named."""

DELAY = 90
"""Seconds before its limit at which a task is told to stop; half of a shorter limit."""

COUNTS = ('array_parallelism', 'cpus_per_gpu', 'cpus_per_task', 'signal_delay_s', 'tasks')
"""Options whose value is a number from 1."""

TEXTS = (
    'account', 'begin', 'comment', 'constraint', 'exclude', 'exclusive', 'gpus', 'gpus_per_node',
    'gpus_per_task', 'gres', 'job_name', 'licenses', 'mail_type', 'mail_user', 'mem',
    'mem_per_cpu', 'mem_per_gpu', 'nice', 'nodelist', 'partition', 'qos', 'reservation', 'wckey',
)  # fmt: skip
"""Options whose value is handed to sbatch as it is."""

UNKNOWN_TO_SUBMITIT = ('begin', 'gpus', 'licenses', 'nice', 'reservation')
"""Options of sbatch that are no parameters of submitit's executor."""

KEYS = (*COUNTS, *TEXTS, 'setup', 'time', 'timeouts')

TIME = re.compile(r'(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?')
"""A time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours, ..."""


class Options(NamedTuple):
    """What `--slurm` says.

    Attributes:
        tasks: At most so many tasks an array has; None for one per experiment.
        timeouts: How often a task may run into its time limit and go on.
        executor: Parameters of submitit's executor for Slurm.
    """

    tasks: int | None
    timeouts: int
    executor: dict[str, Any]

    @property
    def device(self) -> str:
        """The device of the tasks: 'cuda' if they ask for a GPU."""
        asked = {**self.executor, **self.executor['additional_parameters']}
        found = any(key in asked for key in GPUS)
        # Parts like gpu, gpu:2 or gpu:a100:2, where a count of 0 asks for none.
        parts = (part.split(':') for part in asked.get('gres', '').split(','))
        found |= any(name == 'gpu' and rest[-1:] != ['0'] for name, *rest in parts)
        return 'cuda' if found else 'cpu'


def add(p: argparse.ArgumentParser) -> None:
    """Adds the arguments that hand the experiments of a command to a scheduler."""
    p.add_argument(
        '--launcher',
        choices=('local', 'slurm'),
        default='local',
        help='where the experiments run: on this machine, or as tasks of Slurm, e.g. slurm; the '
        'command then returns at once, and typed again it makes the tables',
    )
    p.add_argument(
        '--slurm',
        nargs='+',
        default=[],
        metavar='KEY=VALUE,...',
        help='options of the tasks, or a YAML or JSON file of them, e.g. '
        'partition=gpu,time=4:00:00,gpus_per_node=1,cpus_per_task=4; tasks=N limits their number',
    )
    p.add_argument(
        '--only',
        nargs='+',
        metavar='FOLDER',
        help='run those experiments of the command alone, or train those teachers, whose folders '
        'in the results folder are given, e.g. runs/synth_faces/rfnet/uniform-last-65aa7665/seed0; '
        'so begins a task of --launcher slurm',
    )


def check(args: argparse.Namespace) -> None:
    """Checks the arguments of a command whose experiments are handed to a scheduler.

    Raises:
        UserError: An option is wrong, excludes the launcher, or Slurm or submitit is not there.
    """
    if args.launcher != 'slurm':
        if args.slurm and args.only is None:
            raise UserError('--slurm: expected --launcher slurm beside it')
        return
    device = options(args.slurm).device
    if args.device.startswith('cuda') and (device == 'cpu' or args.device != 'cuda'):
        raise UserError(
            f'--launcher slurm: expected --device cuda with a GPU in --slurm, e.g. gpus=1, or '
            f'neither, found --device {args.device}'
        )
    excluded = {
        'force': 'a task that is started again would begin anew; remove the folders of the runs',
        'budget': 'the limit of a task is time=... in --slurm',
        'shard': 'the tasks are shares already',
        'only': 'each task gets its own',
        'gpus': 'a task gets its GPUs from Slurm, e.g. by gpus=1 in --slurm',
    }
    for option, why in excluded.items():
        if getattr(args, option):
            raise UserError(f'--launcher slurm: expected no --{option} beside it: {why}')
    if args.dry_run:
        return
    for name in COMMANDS:
        if shutil.which(name) is None:
            raise UserError(
                f'--launcher slurm: expected the commands of Slurm on this machine, found no {name}'
            )
    if importlib.util.find_spec('submitit') is None:
        raise UserError(
            '--launcher slurm: expected an installed package submitit, found none; install it: '
            "pip install '.[slurm]'"
        )


def device_of(args: argparse.Namespace) -> str:
    """Returns where the tasks compute; the machine on which a command is typed says nothing."""
    return options(args.slurm).device if args.device == 'auto' else args.device


def options(words: Sequence[str]) -> Options:
    """Reads the words of --slurm.

    Args:
        words: KEY=VALUE, several of them joined by commas, or the name of a YAML or JSON file.
            What is typed comes before what a file says.

    Raises:
        UserError: A file cannot be read, a key does not exist, or a value does not fit.
    """
    files = [word for word in words if '=' not in word]
    given: dict[str, Any] = {}
    for name in files:
        given |= _file(user_path(name, '--slurm'))
    typed = keyed(_pairs(word for word in words if '=' in word), '--slurm', 'KEY=VALUE')
    found = {key: _value(key, value) for key, value in {**given, **typed}.items()}
    if 'time' not in found:
        raise UserError('--slurm: expected the time limit of a task, e.g. time=4:00:00, found none')
    limit = 60 * found['time']
    if found.setdefault('signal_delay_s', min(DELAY, limit // 2)) >= limit:
        raise UserError(
            f'--slurm: signal_delay_s: expected fewer seconds than the limit of {limit}, '
            f'found {found["signal_delay_s"]}'
        )
    own = {key: found.pop(key, None) for key in ('tasks', 'timeouts')}
    more = {key: found.pop(key) for key in UNKNOWN_TO_SUBMITIT if key in found}
    executor = {
        'job_name': 'benchmark',
        **found,
        'additional_parameters': {**more, 'requeue': True},
    }
    return Options(own['tasks'], 10 if own['timeouts'] is None else own['timeouts'], executor)


def _pairs(words: Iterable[str]) -> list[str]:
    """Splits words at their commas; a value such as that of nodelist may hold some, too."""
    pairs: list[str] = []
    for word in words:
        first, *others = word.split(',')
        pairs.append(first)
        for part in others:
            if '=' in part:
                pairs.append(part)
            else:
                pairs[-1] += f',{part}'
    return pairs


def _file(path: Path) -> dict[str, Any]:
    """Reads a file of options; JSON is YAML, too.

    Raises:
        UserError: There is none, it cannot be read, or holds something else.
    """
    if not path.is_file():
        raise UserError(f'--slurm: expected KEY=VALUE or a file, found no file {path}')
    fields = opened(path, '--slurm').fields(KEYS)
    return {
        key: [line.text() for line in item.items('commands')] if item.is_list else item.text()
        for key, item in fields.items()
    }


def _value(key: str, given: Any) -> Any:
    """Reads the value of one option.

    Raises:
        UserError: There is no such option, or the value does not fit.
    """
    if key not in KEYS:
        raise unknown('option in --slurm', key, KEYS)
    if key == 'setup':
        return [_text(key, line) for line in (given if isinstance(given, list) else [given])]
    text = _text(key, given)
    if key == 'time':
        return minutes(text)
    if key in GPUS and not NUMBER_OF_GPUS.fullmatch(text):
        raise UserError(
            f'--slurm: {key}: expected a number from 1, or a type and a number such as a100:2, '
            f'found {ascii(text[:40])}'
        )
    if key in (*COUNTS, 'timeouts'):
        least = int(key in COUNTS)
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
            raise UserError(
                f'--slurm: {key}: expected a number from {least}, found {ascii(text[:40])}'
            )
        return int(text)
    return True if (key, text) == ('exclusive', 'true') else text


def _text(key: str, given: Any) -> str:
    if not isinstance(given, str) or not given or not given.isprintable():
        raise UserError(f'--slurm: {key}: expected a line of text, found {ascii(given)[:40]}')
    return given


def minutes(given: str) -> int:
    """Reads a time limit as Slurm writes it, in minutes, rounded up.

    Args:
        given: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or
            days-hours:minutes:seconds.

    Raises:
        UserError: It is none of these, or no time at all.
    """
    match = TIME.fullmatch(given)
    days, *parts = match.groups() if match else (None, None, None, None)
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:
        numbers = [0, *numbers]  # the first number is that of minutes
    hours, mins, secs = [*numbers, 0, 0, 0][:3]
    found = math.ceil(int(days or 0) * 1440 + hours * 60 + mins + secs / 60)
    if not found:
        raise UserError(
            f'--slurm: time: expected a time limit such as 4:00:00, 90 (minutes) or 2-00:00:00, '
            f'found {ascii(given[:40])}'
        )
    return found
