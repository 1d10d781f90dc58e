"""Checks of what a command wants to run that need neither PyTorch nor the methods themselves."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.engine import spelled
from benchmark.engine.grids import EMBEDDED, NamedGrid
from benchmark.errors import UserError, unknown
from benchmark.files import ROOT
from benchmark.names import check_spec

REGISTERED = re.compile(r"^@(?:METHODS|DATASETS)\.register_module\('([^']+)'\)$", re.MULTILINE)
"""How a file of methods/ or datasets/ registers a name."""

NAMED = re.compile(r"^        name: str = '',$", re.MULTILINE)
"""How the constructor of a data set has the option `name`."""

FEWEST = 2
"""Trials that a search has at least."""


def check(args: argparse.Namespace) -> None:
    """Checks methods, data sets, trials and files of a command, as far as it shows at once.

    What passes is checked again where it is used: a name may belong to a file that cannot be
    imported.

    Args:
        args: The arguments, with the grid that was read.

    Raises:
        UserError: There is no such method, data set, option, data root or subset, no method at
            all, or too few trials.
    """
    _check_tune(args)
    _check_files(args)
    # A program that has loaded the registry may have registered what no file shows.
    if 'benchmark.registry' not in sys.modules:
        grid = args.grid or NamedGrid('', ())
        _check_names('method', args.methods or grid.methods, ROOT / 'methods')
        datasets = args.datasets or grid.datasets
        _check_names('data set', datasets, ROOT / 'datasets', args.data_root)
        folders = {name: ROOT / name for name in ('methods', 'datasets')}
        keys = [word.partition('=')[0] for word in args.cfg_options]
        spelled.check(args.methods, datasets or EMBEDDED, folders, keys)


def _check_tune(args: argparse.Namespace) -> None:
    """Checks the number of trials.

    Raises:
        UserError: A search would have nothing to choose from.
    """
    trials = args.grid.tune if args.tune is None and args.grid else args.tune
    if trials is not None and trials < FEWEST:
        raise UserError(
            f'--tune: expected {FEWEST} trials or more, the first untuned, found {trials}'
        )


def _check_files(args: argparse.Namespace) -> None:
    """Checks that what is read is there; a plan goes on without data that are not.

    Raises:
        UserError: A data root is not there, or --subsets is no word and no file.
    """
    for root in () if args.dry_run else args.data_root:
        if not root.exists():
            raise UserError(
                f'--data-root: expected a file or a folder, found no {root}; --list tells how to '
                'get the data'
            )
    subsets = (args.subsets or '').strip()
    if subsets not in ('', 'all') and ':' not in subsets and not Path(subsets).is_file():
        from benchmark import tested  # NumPy is imported for the error alone

        tested.spelled(subsets, ('',))


def _check_names(what: str, specs: Sequence[str], folder: Path, roots: Sequence[Path] = ()) -> None:
    """Checks that some file seems to register each name that is no file's own.

    Args:
        what: 'method' or 'data set'.
        specs: Specs as typed.
        folder: Holds the files that register names.
        roots: Data roots, by whose names data sets may have been called.

    Raises:
        UserError: No file does; the nearest name is given. Or no method is named.
    """
    files = sorted(folder.glob('[!_]*.py'))
    texts = [file.read_text(encoding='utf-8') for file in files]
    known = {name for text in texts for name in REGISTERED.findall(text)}
    if what == 'method' and not specs:
        raise UserError(f'--methods: expected some of {", ".join(sorted(known))}')
    if sum(text.count('.register_module(') for text in texts) != len(known):
        return  # some file registers its names otherwise, which only an import shows
    stems = {file.stem for file in files}  # of a file that is broken, the import tells why
    for spec in specs:
        check_spec(spec)
        name = spec.partition(':')[0]
        if '.py:' in spec or name in known | stems:
            continue
        if what == 'data set':
            _check_called(name, [*roots, Path(name)], texts)
        raise unknown(what, name, known, several=True)


def _check_called(name: str, roots: Sequence[Path], texts: Sequence[str]) -> None:
    """Checks that the name of a data set is not that of a folder or file with data.

    Args:
        name: What was typed.
        roots: Where data may be.
        texts: The files that register data sets.

    Raises:
        UserError: It is; the data sets for data of the user's own are named.
    """
    for root in roots:
        if name in (root.name, root.stem) and root.exists():
            raise UserError(
                f'--datasets: expected a registered name, found {name!r}, which is called like '
                f'{root}; name its layout, e.g. --datasets {_own(texts)} --data-root {root}'
            )


def _own(texts: Sequence[str]) -> str:
    """Returns the names of the data sets for data of the user's own, which have an option name."""
    own = [REGISTERED.findall(text) for text in texts if NAMED.search(text)]
    return '|'.join(sorted(name for names in own for name in names))
