"""Prepares a data root from official archives, or verifies a data root.

python datasets/prepare.py nyuv2 SOURCE TARGET
python datasets/prepare.py check nyuv2 ROOT
"""

from __future__ import annotations

import argparse
import difflib
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == '__main__':
    # A script starts with its own folder there, in which the packages of the project are not found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.files import user_path
from benchmark.narrowed import open_data
from benchmark.options import resolve
from benchmark.registry import DATASETS, discover, lookup, parse_spec
from benchmark.streams import Parser, command, telling
from datasets.common.prepare.findings import Findings
from datasets.common.prepare.manifest import MANIFEST, read_manifest
from datasets.common.prepare.preparation import Preparation, SourceError
from datasets.common.prepare.verification import verify_files, verify_splits

PREPARE_EXAMPLES = """examples:
  python datasets/prepare.py nyuv2 DOWNLOADS NYUV2
  python datasets/prepare.py brats2020 DOWNLOADS BRATS2020
  python datasets/prepare.py check nyuv2 NYUV2
"""

CHECK_EXAMPLES = """examples:
  python datasets/prepare.py check nyuv2 NYUV2 pretrained=none
  python datasets/prepare.py check casia_surf CASIA_SURF --quick
  python datasets/prepare.py check synth_faces train=500
"""


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Words of the command line; by default those that were typed.

    Returns:
        The exit status: 0 if all went well, 1 if `check` has found problems.

    Raises:
        UserError: The arguments or the data are wrong, which is told with status 2.
    """
    words = sys.argv[1:] if argv is None else argv
    discover()
    return check(words[1:]) if words[:1] == ['check'] else prepare(words)


def prepare(words: list[str]) -> int:
    """Prepares the data root that the words name; returns the exit status.

    Raises:
        UserError: The arguments, the source or the target are unusable.
    """
    args = _prepare_parser().parse_args(words)
    name, options = parse_spec(args.dataset, DATASETS)
    if name not in DATASETS.module_dict and difflib.get_close_matches(name, ['check']):
        raise UserError(f'unknown data set {name!r}; did you mean the command check?')
    cls = lookup(DATASETS, name)
    if options:
        raise UserError(f'{args.dataset}: expected no options; they apply when the data are read')
    if not hasattr(cls, 'prepare'):
        raise UserError(f'{name} needs no preparation; its layout: {cls.how_to_get}')
    try:
        work = Preparation(name, args.source, args.target)
        fresh = work.run(cls)
        print(*work.remarks.lines(), sep='\n', end='\n' if work.remarks.count else '')
    except SourceError as error:
        raise UserError(f'{error}; how to get {name}: {cls.how_to_get}') from None
    manifest = read_manifest(args.target)
    if manifest is None:
        raise UserError(f'{args.target}: expected a {MANIFEST}, found none after the preparation')
    size = sum(entry.size for entry in manifest.files.values())
    told = f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:.1f} MB'
    samples = ', '.join(f'{count} {split}' for split, count in manifest.counts.items())
    print(
        f'{name}: {"prepared" if fresh else "already prepared"} in {args.target}: '
        f'{samples} ({len(manifest.files)} files, {told})'
    )
    return 0


def _prepare_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='datasets/prepare.py',
        description='Prepares a data root from official archives. When it has been interrupted, '
        'the same command continues. "datasets/prepare.py check" verifies a data root.',
        epilog=PREPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('dataset', metavar='DATASET', help='name of the data set, e.g. nyuv2')
    parser.add_argument(
        'source',
        metavar='SOURCE',
        type=partial(user_path, what='SOURCE'),
        help='the archive, or the folder that holds it',
    )
    parser.add_argument(
        'target',
        metavar='TARGET',
        type=partial(user_path, what='TARGET'),
        help='the folder to write: a new or empty one, or that of an interrupted preparation',
    )
    return parser


def check(words: list[str]) -> int:
    """Verifies the data root that the words name and prints all problems.

    Returns:
        The exit status: 1 if there is a problem, else 0.

    Raises:
        UserError: The arguments are wrong.
    """
    args = _check_parser().parse_intermixed_args(words)
    name, given = parse_spec(args.dataset, DATASETS)
    cls = lookup(DATASETS, name)
    words = args.options
    if cls.embedded:
        # An embedded data set has no root, so the word in its place is an option too.
        words = [word for word in (args.root, *words) if word]
    elif not args.root:
        raise UserError(f'{name}: expected check {name} ROOT; how to get it: {cls.how_to_get}')
    elif not user_path(args.root, 'ROOT').exists():
        raise UserError(f'{args.root}: no such data root; how to get {name}: {cls.how_to_get}')
    else:
        given['root'] = args.root
    for word in words:
        key, equals, given[key] = word.partition('=')
        if not equals:
            raise UserError(f'{name}: expected KEY=VALUE, found {word!r}')
    return report(cls, name, resolve(cls, name, given, {}), args.quick)


def _check_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog='datasets/prepare.py check',
        description='Verifies a data root and prints every problem: checksums, numbers of samples, '
        'pairing of files, labels, values, and overlap of the splits.',
        epilog=CHECK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('dataset', metavar='DATASET', help='name of the data set, e.g. nyuv2')
    parser.add_argument(
        'root', metavar='ROOT', nargs='?', help='the data root; embedded data sets have none'
    )
    parser.add_argument(
        'options',
        nargs='*',
        metavar='KEY=VALUE',
        help='options of the data set, e.g. pretrained=none',
    )
    parser.add_argument(
        '--quick', action='store_true', help='compare the sizes of files without reading them'
    )
    return parser


def report(cls: type[Dataset], name: str, options: dict[str, Any], quick: bool) -> int:
    """Verifies a data set and prints the table of its splits and all problems.

    Args:
        cls: The data set class.
        name: Its registered name.
        options: Options of its constructor; `root` is the data root, if it has one.
        quick: Does not read files; compares their sizes.

    Returns:
        The exit status: 1 if there is a problem, else 0.
    """
    findings = Findings()
    root = options.get('root')
    if root and Path(root).is_dir():
        verify_files(Path(root), name, quick, findings)
    try:
        data = open_data(cls, options)
        print(verify_splits(data, quick, findings))
    except UserError as error:
        findings.add('dataset', str(error))
    for line in findings.lines():
        print(line)
    where = f'{name} in {root}' if root else name
    print(f'{where}: {findings.count or "no"} problem{"" if findings.count == 1 else "s"} found')
    return 1 if findings.count else 0


if __name__ == '__main__':
    command(main)
