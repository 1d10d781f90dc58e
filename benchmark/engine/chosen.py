"""Which methods a command trains on each of its data sets, and with which options."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.dataset import Dataset
from benchmark.engine.grids import NamedGrid, field_of
from benchmark.errors import UserError, unknown
from benchmark.registry import DATASETS, METHODS, parse_spec


def on(specs: Sequence[str], data: Dataset, named: NamedGrid | None) -> tuple[str, ...]:
    """Returns the specs of methods on one data set.

    An option `DATASET.KEY` of a method applies on that data set alone, instead of KEY. A grid,
    whose data sets may be of several kinds, leaves out methods that cannot be trained for one.

    Args:
        specs: Specs as typed, e.g. 'mmanet:alpha=4,synth_faces.alpha=30'.
        data: The data set.
        named: The grid of the command, if it has one.

    Raises:
        UserError: A spec is not of its form.
    """
    found = []
    for spec in specs:
        name, given = parse_spec(spec, METHODS)
        if any('.' in key for key in given):
            plain = {key: value for key, value in given.items() if '.' not in key}
            meant = {field_of(k): v for k, v in given.items() if k == f'{data.spec}.{field_of(k)}'}
            tail = ','.join(f'{key}={value}' for key, value in {**plain, **meant}.items())
            spec = f'{name}:{tail}' if tail else name
        if named is None or _fits(name, data):
            found.append(spec)
    return tuple(found)


def _fits(name: str, data: Dataset) -> bool:
    """Returns whether a method takes this kind of task; one that is not known counts as such."""
    cls = METHODS.module_dict.get(name)
    return cls is None or data.task.kind in cls.task_kinds


def tell_left_out(specs: Sequence[str], named: NamedGrid, datasets: Sequence[Dataset]) -> None:
    """Prints which methods a grid leaves out on data that they cannot be trained for.

    Args:
        specs: Specs of the methods of the grid.
        named: The grid.
        datasets: The data sets, of which several may have one name.

    Raises:
        UserError: It leaves out all of them on all data sets.
    """
    names = [parse_spec(spec, METHODS)[0] for spec in specs]
    every = {data.name: data for data in datasets}.values()
    for data in every:
        found = [s for s, name in zip(specs, names, strict=True) if not _fits(name, data)]
        if found:
            told = f'{", ".join(found)}: cannot be trained for {data.task.kind}'
            print(f'note: {data.name}: left out of --grid {named.name}: {told}')
    if every and not any(_fits(name, data) for name in names for data in every):
        kinds = ' or '.join(sorted({data.task.kind for data in every}))
        raise UserError(f'--grid {named.name}: expected a method for {kinds}, found none')


def check_meant(specs: Sequence[str], datasets: Sequence[str]) -> None:
    """Checks that options which methods have on one data set alone name one of the data sets.

    Args:
        specs: Specs of the methods.
        datasets: Specs of the data sets, and of those of the grid.

    Raises:
        UserError: One names another data set; the nearest name is given.
    """
    names = list(dict.fromkeys(parse_spec(spec, DATASETS)[0] for spec in datasets))
    for name, given in (parse_spec(spec, METHODS) for spec in specs):
        for key in given:
            dataset, dot, _ = key.rpartition('.')
            if dot and dataset not in names:
                raise unknown(f'data set in {name}:{key}:', dataset, names)
