"""Exports the networks of a run to ONNX and torch.export, and checks them on every subset."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from functools import partial  # noqa: E402

from benchmark.files import user_path  # noqa: E402
from benchmark.streams import Parser, command, telling  # noqa: E402

EXAMPLES = """examples:
  python benchmark/export.py RUN
      RUN/export/model.onnx and model.pt2
  python benchmark/export.py RUN --formats onnx --out deployed
RUN is the folder of a run, e.g. results/runs/parts/rfnet/uniform-last-1848b8bb/seed0

An exported network takes each modality (B, *shape) float32, as it is measured, and the mask (B, M)
bool of the modalities that may be used, and returns the probabilities of the classes or, in a
regression, the values in their units. What the mask leaves out may hold any value.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/export.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        'run', metavar='RUN', type=partial(user_path, what='RUN'), help='folder of the run'
    )
    p.add_argument(
        '--out',
        type=partial(user_path, what='--out'),
        metavar='FOLDER',
        help='folder that takes the files (default: RUN/export)',
    )
    p.add_argument(
        '--formats',
        nargs='+',
        choices=('onnx', 'pt2'),
        default=['onnx', 'pt2'],
        help='onnx needs the optional dependencies `export`; pt2 is read by torch.export.load '
        '(default: both)',
    )
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
        UserError: The run cannot be used or a network cannot be exported, told with status 2.
    """
    args = parser().parse_args(argv)
    # PyTorch takes seconds to load, which a mistake in the arguments need not cost.
    from benchmark.engine import exporting
    from benchmark.engine.building import use_threads
    from benchmark.engine.deployed import load

    formats = tuple(dict.fromkeys(args.formats))
    exporting.check_formats(formats)
    use_threads(None, 'cpu')
    model = load(args.run, method_file=args.method_file)
    for note in model.notes:
        print(note)
    for one in exporting.export(model, args.out or model.card.folder / 'export', formats):
        subsets = f'{one.subsets} subset{"s" if one.subsets > 1 else ""}'
        gap = (
            f'{exporting.answered(model.task)} differ by at most {one.difference:.1g} on {subsets}'
        )
        gap += '; one sample at a time' if one.single else ''
        print(f'written: {one.file} ({one.file.stat().st_size / 1e6:.1f} MB; {gap})')
    return 0


if __name__ == '__main__':
    command(main)
