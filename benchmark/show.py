"""Shows test samples of runs under every subset: inputs, predictions and errors; trains nothing."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from functools import partial  # noqa: E402

from benchmark.errors import UserError  # noqa: E402
from benchmark.files import user_path  # noqa: E402
from benchmark.records.gallery import RULES  # noqa: E402
from benchmark.streams import Parser, command, telling  # noqa: E402

EXAMPLES = """examples:
  python benchmark/show.py RUN
      RUN/gallery/gallery.html, of a run on embedded data: three samples by each rule
  python benchmark/show.py RUN OTHER --data ../parts --rule drop --samples 5 --out look
      the same samples for two runs, side by side, in look/gallery.html
  python benchmark/show.py RUN --png
      and a PNG file of each sample, for slides
  python benchmark/show.py RUN OTHER --data ../parts --keep
      and keep the pictures in the folders of the runs, for the page of all results
RUN is the folder of a run, e.g. results/runs/parts/rfnet/uniform-last-1848b8bb/seed0
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    path = {k: partial(user_path, what=k) for k in ('RUN', '--data', '--out', '--method-file')}
    p = Parser(
        prog='benchmark/show.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        'runs', metavar='RUN', nargs='+', type=path['RUN'], help='folders of runs on the same data'
    )
    p.add_argument(
        '--data',
        metavar='PATH',
        type=path['--data'],
        help='the data that the runs were trained on; none for embedded data',
    )
    p.add_argument(
        '--rule',
        nargs='+',
        choices=RULES,
        default=list(RULES),
        help='drop: the error grows most from all modalities to the worst subset; disagreement: '
        'the predictions differ most between subsets; random (default: all three)',
    )
    p.add_argument(
        '--samples', type=int, default=3, metavar='N', help='samples of each rule (default: 3)'
    )
    p.add_argument(
        '--seed', type=int, default=0, metavar='N', help='seed of the rule random, e.g. 1'
    )
    p.add_argument(
        '--subsets',
        nargs='+',
        default=[],
        metavar='SUBSET',
        help='subsets that are shown and that the rules look at, e.g. rgb rgb+ir (default: all; '
        'of more than 31 the single modalities and the largest subsets)',
    )
    p.add_argument(
        '--out', type=path['--out'], metavar='FOLDER', help='default: gallery/ in the first RUN'
    )
    p.add_argument('--png', action='store_true', help='write a PNG file of each sample, too')
    p.add_argument(
        '--keep', action='store_true', help='keep the pictures in the folders of the runs, too'
    )
    p.add_argument(
        '--device', choices=('cpu', 'cuda'), default='cpu', help='e.g. cuda (default: cpu)'
    )
    p.add_argument(
        '--method-file',
        type=path['--method-file'],
        metavar='FILE',
        help='Python file of the method, if it lies outside methods/, e.g. mine.py',
    )
    return p


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0.

    Raises:
        UserError: The arguments, the runs or the data cannot be used, told with status 2.
    """
    args = parser().parse_args(argv)
    if args.samples < 1:
        raise UserError(f'--samples: expected 1 or more, found {args.samples}')
    # PyTorch takes seconds to load, which a mistake in the arguments need not cost.
    from benchmark.engine import showing
    from benchmark.engine.building import use_threads
    from benchmark.records import gallery as files
    from benchmark.report.page import gallery_page

    use_threads(None, args.device)
    folders, others = showing.recorded(list(dict.fromkeys(args.runs)))
    for folder in others:
        print(f'left out: {folder} holds no record, as the folder of a teacher')
    runs = [showing.opened(run, args.device, args.method_file) for run in folders]
    showing.check_together(runs)
    for note in dict.fromkeys(note for run in runs for note in run.model.notes):
        print(note)
    subsets = _subsets(args.subsets, runs[0].model.names)
    source = showing.source_of(runs[0], args.data)
    rules = {rule: args.samples for rule in args.rule}
    made = showing.galleries(runs, source, rules, subsets, args.seed)
    out = args.out or runs[0].folder / 'gallery'
    for file in gallery_page.write(out, [run.record for run in runs], made, args.png):
        print(f'written: {file}')
    if args.keep:
        for run, gallery in zip(runs, made, strict=True):
            files.write(run.folder, gallery)
            print(f'written: {run.folder / files.FILE}')
    return 0


def _subsets(given: list[str], names: tuple[str, ...]) -> list[str]:
    """Returns subsets with their modalities in the order of the data set."""
    from benchmark.subsets import subset_named, subset_order

    return subset_order({subset_named(one, names, '--subsets') for one in given}, names)


if __name__ == '__main__':
    command(main)
