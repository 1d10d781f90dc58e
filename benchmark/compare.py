"""Puts the predictions of other code beside the methods of this project; nothing is trained."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from functools import partial  # noqa: E402
from typing import TypeVar  # noqa: E402

from benchmark.errors import UserError  # noqa: E402
from benchmark.files import ROOT, user_path  # noqa: E402
from benchmark.records import prediction_files, store  # noqa: E402
from benchmark.records.predictions import Predictions  # noqa: E402
from benchmark.records.schema import RecordError  # noqa: E402
from benchmark.streams import Parser, command, telling  # noqa: E402

T = TypeVar('T')

EXAMPLES = """examples:
  python benchmark/compare.py mine-0.npz mine-1.npz mine-2.npz
      three trainings of other code on an embedded data set, in the tables of results
  python benchmark/compare.py mine.csv --datasets arrays --data-root parts.npz --results study
      the same on data of your own, which are opened as by run.py
  python benchmark/compare.py mine.npz --cfg-options test=500
      on a data set that was opened with other options
  python benchmark/compare.py --export results/runs/synth_faces/rfnet/*/seed* --out predictions
      what runs of this project predicted, in the same layout
docs/external.md describes the files: the names of the test samples and, for each subset of the
modalities, classes, probabilities or logits; in segmentation areas, confusions or label maps.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/compare.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        'files',
        metavar='FILE',
        nargs='*',
        type=partial(user_path, what='FILE'),
        help='predictions as .npz or .csv',
    )
    p.add_argument(
        '--results',
        type=partial(user_path, what='--results'),
        default=str(ROOT / 'results'),
        metavar='FOLDER',
        help='folder that takes records, tables and the page, e.g. study (default: results/)',
    )
    p.add_argument(
        '--datasets',
        nargs='+',
        default=[],
        metavar='NAME[:KEY=VALUE,...]',
        help='data sets of the predictions, e.g. arrays (default: those that the files name)',
    )
    p.add_argument(
        '--data-root',
        nargs='+',
        default=[],
        type=partial(user_path, what='--data-root'),
        metavar='PATH',
        help='where the data lie, e.g. parts.npz; embedded data sets need none',
    )
    p.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='options of the data sets, e.g. test=500',
    )
    p.add_argument(
        '--export',
        nargs='+',
        default=[],
        type=partial(user_path, what='--export'),
        metavar='RUN',
        help='instead write the predictions of runs, given by their folders, as .npz files',
    )
    p.add_argument(
        '--out',
        type=partial(user_path, what='--out'),
        metavar='FOLDER',
        help='folder that takes the files of --export, e.g. predictions',
    )
    return p


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 2 if a file or a run cannot be used; the others are.

    Raises:
        UserError: The arguments do not hold together, which is told with status 2.
    """
    args = parser().parse_args(argv)
    if bool(args.files) == bool(args.export):
        found = 'both' if args.files else 'neither'
        raise UserError(f'expected FILE ... to compare or --export RUN ..., found {found}')
    if bool(args.export) != bool(args.out):
        raise UserError('expected --export RUN ... together with --out FOLDER, found one of them')
    if args.export:
        return 0 if all([_export(run, args.out) for run in args.export]) else 2
    read = [_or_told(partial(prediction_files.read, file)) for file in args.files]
    known = [one for several in read for one in several or ()]
    ok = _compare(args, known) if known else False
    return 0 if ok and None not in read else 2


def _or_told(make: partial[T]) -> T | None:
    """Returns what a function returns, or None once the error is printed."""
    try:
        return make()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return None


def _export(run: Path, out: Path) -> bool:
    """Writes the predictions of a run; returns whether that was possible."""
    path = _or_told(partial(_exported, run / store.RECORD, out))
    if path:
        print(f'written: {path}')
    return path is not None


def _exported(file: Path, out: Path) -> Path:
    try:
        record = store.read(file)
        if record['status'] != 'complete':
            raise UserError(f'{file}: expected a finished run, found status {record["status"]}')
        kind = record['dataset']['kind']
        if kind not in ('classification', 'segmentation'):
            raise UserError(
                f'{file}: expected classification or segmentation, whose predictions files hold, '
                f'found {kind}'
            )
        outcomes = store.read_outcomes(file.with_name(store.OUTCOMES), record)
    except RecordError as error:
        raise UserError(str(error)) from None
    path = out / f'{"-".join(file.absolute().parts[-5:-1])}.npz'
    prediction_files.write(path, record, outcomes)
    return path


def _compare(args: argparse.Namespace, found: list[Predictions]) -> bool:
    """Records predictions and shows the tables; returns whether all of them were recorded."""
    # PyTorch takes seconds to load, which a mistake in arguments or files need not cost.
    from benchmark.engine import comparing
    from benchmark.registry import discover
    from benchmark.running import show

    discover()
    data = comparing.Sources(found, args.datasets, args.data_root, args.cfg_options)
    first: dict[tuple[str, str, int], Predictions] = {}

    def recorded(one: Predictions) -> comparing.Compared:
        of = data.of(one)
        other = first.setdefault((one.method, of.fingerprint, one.seed), one)
        if other is not one:
            raise UserError(
                f'{one.file}: expected each training once, found {one.method} seed {one.seed} on '
                f'{one.dataset} in {other.file}, too'
            )
        return comparing.record(one, of, args.results)

    made = [_or_told(partial(recorded, one)) for one in found]
    done = [one for one in made if one]
    for one in done:
        for line in (*one.notes, f'recorded: {one.file}'):
            print(line)
    shown = show(dict.fromkeys(one.record['dataset']['name'] for one in done), args.results)
    return shown and len(done) == len(made)


if __name__ == '__main__':
    command(main)
