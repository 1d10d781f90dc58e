"""The command that repeats a run, from its record."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from benchmark.files import ROOT
from benchmark.options import spell
from benchmark.records.schema import DatasetInfo, Record, is_external

RUN = 'python benchmark/run.py'

CHOSEN = {'arrays': ('ema', 'vector_noise')}
"""Reader of users' data -> fields that are off unless its recipe turns them on, so that a record
without them was made without them."""


def unfinished(record: Record, force: bool = False) -> str:
    """Returns what a message says of a run whose record is not proven by its outcomes.

    Args:
        record: The record.
        force: Whether the run counts as recorded nevertheless, because its own files agree and only
            those of other runs do not.
    """
    return f'the run counts as unfinished; this repeats it: {command(record, force)}'


def command(record: Record, force: bool = False) -> str:
    """Returns the command that repeats a run; the paths of data and results are not in a record.

    Args:
        record: The record of the run.
        force: Whether to train anew.
    """
    if is_external(record):
        return 'python benchmark/compare.py FILE'
    method, data = record['method'], record['dataset']
    spec, trials = method['label'], record.get('tuning', {}).get('trials')
    if trials is not None:
        spec = spec.removesuffix(f' (tuned {trials})')
    # Data of the user's own are called by the name of their file, not by that of their reader.
    ours = (ROOT / 'datasets' / f'{data["name"]}.py').is_file()
    reader = data.get('reader', data['name'] if ours else '')
    fields: dict[str, Any] = {**record['protocol'], **(changed(data) if reader else {})}
    fields = dict.fromkeys(CHOSEN.get(reader, ()), 0) | fields
    masked = fields.pop('mask', '')
    if fields.get('encoder_weights'):  # the record has the hash of its content alone
        fields['encoder_weights'] = 'FILE'
    given = [f'{key}={spell(value)}' for key, value in fields.items() if value not in ('', None)]
    named = reader if reader == data['name'] else f'{reader}:name={data["name"]}'
    words = ['--methods', spec, '--datasets', named if reader else 'DATASET']
    words += ['--data-root', 'PATH'] if reader != data['name'] else []
    words += ['--seeds', str(record['seed']), '--cfg-options', *given]
    words += [] if trials is None else ['--tune', str(trials)]
    words += ['--mask', 'FILE'] if masked else []
    return f'{RUN} {shlex.join(words)}' + (' --force' if force else '')


def placed(line: str, runs: Path) -> str:
    """Returns a message whose command, which ends it, names the results folder of the runs.

    A folder outside the checkout stays a word, because pages and tables are passed on.

    Args:
        line: A message, with or without a command.
        runs: The folder of runs that it is about.
    """
    runs = runs.resolve()
    if RUN not in line or runs == (ROOT / 'results' / 'runs').resolve():
        return line
    inside = runs.name == 'runs' and runs.parent.is_relative_to(ROOT)
    folder = runs.parent.relative_to(ROOT).as_posix() if inside else 'FOLDER'
    return f'{line} --results {shlex.quote(folder)}'


def changed(data: DatasetInfo) -> dict[str, Any]:
    """Returns the options of a data set that are not its defaults."""
    return {key: data['options'][key] for key in data.get('changed', ()) if key in data['options']}
