"""Checks of a command's arguments that need neither PyTorch nor data, so that they come at once."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import io
import math
import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.engine import wanted
from benchmark.engine.grid_file import grid_of
from benchmark.errors import UserError
from benchmark.options import keyed
from benchmark.records import kinds

VISUALIZERS = ('tensorboard', 'wandb', 'mlflow')
"""What can show curves; each is the name of a package that has to be installed."""


class Shard(NamedTuple):
    """One of several shares of a command's experiments; `number` counts from 1."""

    number: int
    total: int


def shard(given: str) -> Shard:
    """Reads the value of --shard.

    Raises:
        UserError: It is not of the form i/n, or i is not one of 1 to n.
    """
    match = re.fullmatch(r'([0-9]{1,9})/([0-9]{1,9})', given)
    found = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if not 1 <= found.number <= found.total:
        raise UserError(
            f'--shard: expected i/n with i from 1 to n, e.g. 2/8, found {ascii(given[:40])}'
        )
    return found


def seed(given: str) -> int:
    """Reads a value of --seeds.

    Raises:
        UserError: It is no whole number from 0 up, or has more digits than names of folders take.
    """
    if not re.fullmatch(r'[0-9]{1,18}', given):
        raise UserError(
            '--seeds: expected whole numbers from 0 up, separated by spaces, e.g. 0 1 2, found '
            f'{ascii(given[:40])}'
        )
    return int(given)


PLACE = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')
"""Variables by which `torchrun` tells a process which of several it is."""


def protocol_fields() -> set[str]:
    """Returns the names of the protocol's fields, read from its file, whose import takes long."""
    tree = ast.parse(Path(__file__).with_name('protocol.py').read_text(encoding='utf-8'))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == 'Protocol')
    targets = (n.target for n in body if isinstance(n, ast.AnnAssign))
    return {target.id for target in targets if isinstance(target, ast.Name)}


def processes() -> int:
    """Returns how many processes `torchrun` has started for this command; 1 without it."""
    return int(os.environ['WORLD_SIZE']) if all(name in os.environ for name in PLACE) else 1


def leave_words_to_first() -> None:
    """Silences each process that `torchrun` has started but the first, which says the same."""
    if processes() > 1 and os.environ['RANK'] != '0':
        sys.stdout = sys.stderr = io.StringIO()
        sys.excepthook = functools.partial(traceback.print_exception, file=sys.__stderr__)


def check_processes(args: argparse.Namespace) -> None:
    """Checks that the arguments fit a command that `torchrun` has started in several processes.

    Raises:
        UserError: They do not fit.
    """
    count = processes()
    if count == 1:
        return
    refused = {
        '--jobs': (args.jobs or 1) > 1,
        '--gpus': args.gpus is not None,
        f'--device {args.device}': ':' in args.device,
        '--compile': args.compile,
        '--launcher': getattr(args, 'launcher', 'local') != 'local',
        '--budget': args.budget is not None,
        '--dry-run': args.dry_run,
        '--list': args.list,
        '--status': args.status is not None,
    }
    for option, given in refused.items():
        if given:
            raise UserError(
                f'{option}: expected one process, found {count}; give it without torchrun'
            )


def device(given: str) -> str:
    """Reads the value of --device.

    Raises:
        UserError: It is no device.
    """
    if not re.fullmatch(r'auto|cpu|cuda(:[0-9]{1,3})?', given):
        raise UserError(
            f'--device: expected auto, cpu, cuda or the number of a GPU, e.g. cuda:1, found '
            f'{ascii(given[:40])}'
        )
    return given


def gpus(given: str) -> tuple[int, ...]:
    """Reads the value of --gpus.

    Raises:
        UserError: It is no list of numbers, or one stands there twice.
    """
    if not re.fullmatch(r'[0-9]{1,3}(,[0-9]{1,3})*', given):
        raise UserError(f'--gpus: expected numbers of GPUs, e.g. 0,1, found {ascii(given[:40])}')
    found = tuple(map(int, given.split(',')))
    if len(set(found)) < len(found):
        raise UserError(f'--gpus: expected each GPU once, found {given}')
    return found


DURATION = re.compile(
    r'(?:(?P<h>\d+(?:\.\d+)?) *(?:h|hours?))?'
    r' *(?:(?P<min>\d+(?:\.\d+)?) *(?:m|min|minutes?))?'
    r' *(?:(?P<s>\d+(?:\.\d+)?) *(?:s|sec|seconds?))?',
    re.ASCII,
)
"""A time in hours, minutes and seconds, each of which may be left out."""


def seconds(given: str) -> float:
    """Reads the value of --budget, e.g. '4h' or '1h30min', in seconds.

    Raises:
        UserError: It is not of this form, or no time at all.
    """
    match = DURATION.fullmatch(given[:40].strip(' '))
    parts = match.groupdict(default='0') if match else {}
    found = sum(float(parts.get(unit, 0)) * n for unit, n in (('h', 3600), ('min', 60), ('s', 1)))
    if not 0 < found < math.inf:
        raise UserError(
            '--budget: expected a time in hours, minutes or seconds, e.g. 4h, 90min or 1h30min, '
            f'found {ascii(given[:40])}'
        )
    return found


def add_speed(p: argparse.ArgumentParser) -> None:
    """Adds the options that exchange repeatable numbers for speed; scores differ by rounding."""
    p.add_argument('--compile', action='store_true', help='torch.compile, e.g. on a GPU')
    p.add_argument(
        '--deterministic',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='repeat the same numbers, e.g. not with --no-deterministic, which is for speed',
    )


def add_subsets(p: argparse.ArgumentParser) -> None:
    """Adds the option that says which subsets of the modalities are tested."""
    p.add_argument(
        '--subsets',
        metavar='WHICH',
        help='the subsets of the modalities that are validated and tested: all, sampled:K, or a '
        'file with a subset in each line, e.g. sampled:128 (default: all of up to 8 modalities, '
        'sampled:128 of more)',
    )


def add_corruptions(p: argparse.ArgumentParser) -> None:
    """Adds the options of tests beside the record, which change no score of it."""
    p.add_argument(
        '--corruptions',
        nargs='?',
        type=kinds.kinds,
        const=tuple(kinds.KINDS),
        metavar='KIND,...',
        help='then test the same networks under graded corruptions of one modality, also of '
        'recorded runs, e.g. gaussian,frozen (default: all that fit a modality)',
    )
    p.add_argument(
        '--severities',
        type=kinds.severities,
        metavar='N,...',
        help='severities of --corruptions, e.g. 1,3,5 (default: 1,2,3,4,5)',
    )


def add_curves(p: argparse.ArgumentParser) -> None:
    """Adds the options on the curves of trainings: they change no score."""
    p.add_argument(
        '--curves',
        action='store_true',
        help='evaluate the validation split on every subset during the training also where only '
        'the curves need it: every val_interval epochs',
    )
    p.add_argument(
        '--visualizer',
        choices=tuple(VISUALIZERS),
        help='also tell the curves to TensorBoard, Weights & Biases or MLflow, in the folder of '
        'each run',
    )


def check(args: argparse.Namespace) -> None:
    """Checks what can be checked without importing a method or opening data, and reads the grid.

    What passes is checked again where it is used: a name may belong to a file that cannot be
    imported.

    Raises:
        UserError: A number is out of range, words are not of their form, two options exclude each
            other, or there is no such grid, method or data set.
    """
    for option, least in (('threads', 1), ('jobs', 1), ('workers', 0)):
        if (given := getattr(args, option)) is not None and given < least:
            raise UserError(f'--{option}: expected {least} or more, found {given}')
    if args.compile and not any(map(shutil.which, (os.environ.get('CXX', 'g++'), 'clang++'))):
        raise UserError('--compile: expected a C++ compiler, found no g++')
    if args.gpus is not None and args.device not in ('auto', 'cuda'):
        raise UserError(f'--gpus: expected no --device {args.device} beside it')
    if args.grid is not None:
        args.grid = grid_of(args.grid)
    if args.untuned and (args.tune or (args.grid and args.grid.tune)) is not None:
        raise UserError(
            '--untuned: expected no --tune beside it, which would have nothing to choose'
        )
    _check_which(args)
    if args.visualizer is not None and importlib.util.find_spec(args.visualizer) is None:
        raise UserError(
            f'--visualizer {args.visualizer}: expected an installed package {args.visualizer}, '
            f'found none; install it: pip install {args.visualizer}'
        )
    pairs(args.cfg_options)
    if not args.list:
        wanted.check(args)


def _check_which(args: argparse.Namespace) -> None:
    if args.budget is not None and args.force:
        raise UserError('--budget: expected no --force beside it, whose time is not forecast')
    if args.only is not None and args.shard is not None:
        raise UserError('--only: expected no --shard beside it, which would have nothing to choose')


def pairs(words: Sequence[str]) -> dict[str, str]:
    """Reads the KEY=VALUE words of --cfg-options, as text.

    Raises:
        UserError: A word is not of this form, or a key is given twice.
    """
    return keyed(words, '--cfg-options', 'KEY=VALUE')
