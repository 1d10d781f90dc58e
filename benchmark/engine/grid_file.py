"""Reads what `--grid` runs from a YAML file."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TypeVar

from benchmark.engine.grids import GRIDS, NamedGrid, field_of, joint
from benchmark.engine.yaml_file import SUFFIXES, Item, opened
from benchmark.errors import UserError, unknown
from benchmark.files import user_path

T = TypeVar('T', bound=Hashable)

KEYS = ('about', 'methods', 'datasets', 'seeds', 'options', 'vary', 'gaps', 'tune', 'untuned')
"""What a file may hold; only `methods` has to be there."""

MOST = 100_000
"""Most experiments of one file. A product of a few lists can have billions."""


def grid_of(given: str) -> NamedGrid:
    """Returns a grid by its name or from its file.

    Args:
        given: The value of `--grid`; a name without a dot or a slash is no file.

    Raises:
        UserError: There is no such grid, with the nearest name, or the file cannot be used.
    """
    if given in GRIDS:
        return dataclasses.replace(GRIDS[given], name=given)
    path = user_path(given, '--grid')
    if not path.suffix and '/' not in given:
        raise unknown('grid', given, GRIDS)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f'--grid {path}: expected a YAML file ({" or ".join(SUFFIXES)}) or one of '
            f'{", ".join(GRIDS)}'
        )
    return read(path)


def read(path: Path) -> NamedGrid:
    """Returns the grid in a file.

    Args:
        path: The file, in YAML. The page on options says what it may hold.

    Raises:
        UserError: The file cannot be read, is no YAML, or does not hold a grid. The message names
            the file and the line.
    """
    top = opened(path, '--grid')
    fields = top.fields(KEYS)
    if 'methods' not in fields:
        raise top.error('expected the key methods, found none')
    found = NamedGrid(
        about=fields['about'].text() if 'about' in fields else '',
        methods=_once(fields['methods'], _specs),
        seeds=_once(fields['seeds'], _seeds) if 'seeds' in fields else (0,),
        gaps=_once(fields['gaps'], _texts) if 'gaps' in fields else None,
        vary=_varied(fields['vary']) if 'vary' in fields else {},
        datasets=_once(fields['datasets'], _data_sets) if 'datasets' in fields else (),
        options=_options(fields['options']) if 'options' in fields else {},
        tune=fields['tune'].number() if 'tune' in fields else None,
        untuned='untuned' in fields and fields['untuned'].truth(),
        name=top.file,
    )
    if found.untuned and found.tune is not None:
        raise fields['untuned'].error('untuned: expected no key tune beside it')
    _check_size(top, found.size())
    return found


def _check_size(item: Item, count: int) -> None:
    if count > MOST:
        raise item.error(f'expected at most {MOST} experiments, found {count}')


def _once(item: Item, values: Callable[[Item], Iterator[tuple[Item, T]]]) -> tuple[T, ...]:
    """Reads a list whose values are all different; two spellings of a number are one value."""
    found: dict[Hashable, T] = {}
    for at, value in values(item):
        try:
            key: Hashable = float(value) if isinstance(value, str) else value
        except ValueError:
            key = value
        if key in found:
            raise at.error(f'expected every value once, found {str(value)[:40]} twice')
        found[key] = value
    return tuple(found.values())


def _texts(item: Item) -> Iterator[tuple[Item, str]]:
    return ((each, each.text()) for each in item.items('values'))


def _values(item: Item) -> tuple[str, ...]:
    """Returns one value, or those of a list."""
    return _once(item, _texts) if item.is_list else (item.text(),)


def _seeds(item: Item) -> Iterator[tuple[Item, int]]:
    for each in item.items('whole numbers'):
        if (number := each.number()) < 0:
            raise each.error(f'expected whole numbers from 0 up, found {number}')
        yield each, number


def _specs(item: Item) -> Iterator[tuple[Item, str]]:
    """Reads methods; one whose options have lists of values stands for every combination."""
    made = 0
    for each in item.items('methods'):
        name, options = _named(each)
        values = {key: _values(value) for key, value in options.items()}
        made += math.prod(map(len, values.values()))
        _check_size(each, made)
        for combination in itertools.product(*values.values()):
            yield each, _spec(each, name, dict(zip(values, combination, strict=True)))


def _data_sets(item: Item) -> Iterator[tuple[Item, str]]:
    """Reads data sets; what has several values stands in `vary`, so that their tables say so."""
    for each in item.items('data sets'):
        name, options = _named(each)
        yield each, _spec(each, name, {key: value.text() for key, value in options.items()})


def _named(item: Item) -> tuple[str, dict[str, Item]]:
    """Returns a name and its options, of `name` or of `name: {key: value}`."""
    if item.is_text:
        return item.text('a name'), {}
    ((name, options), *more) = item.fields().items()
    if more:
        raise item.error(f'expected one name with its options, found {name} and {more[0][0]}')
    return name, options.fields()


def _spec(item: Item, name: str, options: dict[str, str]) -> str:
    if not options:
        return name
    if '=' in name:
        raise item.error(f'expected a name before the colon, found {ascii(name[:40])}')
    for key, value in options.items():
        if ',' in key + value or '=' in key:
            raise item.error(
                f'expected an option of {name} and its value (several are separated by /), found '
                f'{ascii(f"{key}: {value}"[:80])}'
            )
    return f'{name}:' + ','.join(f'{key}={value}' for key, value in options.items())


def _options(item: Item) -> dict[str, str]:
    expected = 'one value (several stand in vary)'
    return {key: value.text(expected) for key, value in item.fields().items()}


def _varied(item: Item) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    owners: dict[str, str] = {}
    for key, value in item.fields().items():
        for option in key.split('+'):
            # One of two lists of values for an option would take no effect.
            for other in (x for x in owners if option in (x, field_of(x)) or field_of(option) == x):
                raise value.error(
                    f'{key}: expected every option in one key of vary, found {option} here and '
                    f'{other} in {owners[other]}'
                )
            owners[option] = key
        found[key] = _once(value, _texts)
        for text in found[key]:
            try:
                joint(key, text)
            except UserError as error:
                raise value.error(str(error)) from None
    return found
