"""Predicts new samples with a trained run, or scores it on them; nothing is trained."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from functools import partial  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from benchmark.errors import UserError  # noqa: E402
from benchmark.files import user_path, writing  # noqa: E402
from benchmark.shown import terminal  # noqa: E402
from benchmark.streams import Parser, command, telling  # noqa: E402

if TYPE_CHECKING:
    from benchmark.engine.deployed import Model
    from benchmark.method import SubsetScore

EXAMPLES = """examples:
  python benchmark/predict.py RUN new_photos --out predictions
      the photos in new_photos/<modality>/, which need no labels; those that lack a file are
      predicted from the other modalities
  python benchmark/predict.py RUN new_photos --without thermal --out predictions
      as if the thermal camera were off
  python benchmark/predict.py RUN other_site.npz --evaluate
      the scores of every subset on labelled samples
RUN is the folder of a run, e.g. results/runs/parts/rfnet/uniform-last-1848b8bb/seed0
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/predict.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        'run', metavar='RUN', type=partial(user_path, what='RUN'), help='folder of the run'
    )
    p.add_argument(
        'data',
        metavar='DATA',
        nargs='?',
        type=partial(user_path, what='DATA'),
        help='samples in the layout of the training data; none for embedded data',
    )
    p.add_argument(
        '--out',
        type=partial(user_path, what='--out'),
        metavar='FOLDER',
        help='folder that takes predictions.csv and masks/, or with --evaluate scores.csv',
    )
    p.add_argument(
        '--without',
        nargs='+',
        default=[],
        metavar='MODALITY',
        help='modalities that are not used, e.g. thermal',
    )
    p.add_argument('--evaluate', action='store_true', help='score every subset on labelled samples')
    p.add_argument(
        '--split',
        choices=('train', 'val', 'test', 'all'),
        default='',
        help='samples of one split (default: test where the data name splits, else all)',
    )
    p.add_argument(
        '--device', choices=('cpu', 'cuda'), default='cpu', help='where to compute (default: cpu)'
    )
    p.add_argument('--workers', type=int, default=0, metavar='N', help='loader processes, e.g. 4')
    p.add_argument(
        '--method-file',
        type=partial(user_path, what='--method-file'),
        metavar='FILE',
        help='Python file of the method, if it lies outside methods/',
    )
    return p


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0.

    Raises:
        UserError: The arguments, the run or the samples cannot be used, told with status 2.
    """
    args = parser().parse_args(argv)
    if args.out is None and not args.evaluate:
        raise UserError('expected --out FOLDER for the predictions, or --evaluate, found neither')
    if args.workers < 0:
        raise UserError(f'--workers: expected 0 or more, found {args.workers}')
    # PyTorch takes seconds to load, which a mistake in the arguments need not cost.
    from benchmark.engine import prediction
    from benchmark.engine.building import use_threads
    from benchmark.engine.card import CARD
    from benchmark.engine.deployed import load

    if args.data is not None and (args.data / CARD).is_file():
        raise UserError(
            f'expected one RUN and one DATA, found two runs: {args.run} and {args.data}'
        )
    use_threads(None, args.device)
    model = load(args.run, args.device, args.method_file)
    request = prediction.Request(args.data, args.split, args.without, args.workers)
    unseen = prediction.opened(model.card, request, args.evaluate)
    for note in (*model.notes, *unseen.notes):
        print(terminal(note))
    if args.evaluate:
        _show(model, prediction.evaluate(model, unseen.split, args.workers), args.out)
        return 0
    counts = prediction.predict(model, unseen, args.out, args.workers)
    what = 'volumes' if unseen.split.groups is not None else 'samples'
    used = ', '.join(f'{n} from {subset}' for subset, n in sorted(counts.items()))
    print(f'{sum(counts.values())} {what} predicted: {used}')
    print(f'written: {args.out / prediction.TABLE}')
    return 0


def _show(model: Model, scores: dict[str, SubsetScore], out: Path | None) -> None:
    """Prints the scores of all subsets and, where a folder is given, writes them as CSV."""
    from tabulate import tabulate

    from benchmark.records import units

    first = model.task.metric
    names = dict.fromkeys([first, *(n for score in scores.values() for n in score.metrics)])
    values = {
        s: [score.metrics.get(name, float('nan')) for name in names] for s, score in scores.items()
    }
    each = [units.unit_of(name) for name in names]
    shown = [
        [s, scores[s].n, *(unit.text(x) for unit, x in zip(each, found, strict=True))]
        for s, found in values.items()
    ]
    heads = [f'{n} (mm)' if units.unit_of(n).name == 'mm' else n for n in names]
    label, data = model.card.method['label'], model.card.dataset['name']
    print(f'{terminal(label)}, trained on {terminal(data)}{units.unit_of(first).suffix}')
    # Numbers as text, each with the digits of its metric.
    aligned = ('left', *['right'] * (len(names) + 1))
    print(tabulate(shown, ['subset', 'n', *heads], disable_numparse=True, colalign=aligned))
    if out is None:
        return
    lines = [','.join(['subset', 'n', *names])]
    lines += [','.join(map(str, [s, scores[s].n, *found])) for s, found in values.items()]
    with writing(out / 'scores.csv') as file:
        file.write(''.join(f'{line}\n' for line in lines).encode())
    print(f'written: {out / "scores.csv"}')


if __name__ == '__main__':
    command(main)
