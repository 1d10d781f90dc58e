"""The values that options have where none was typed.

They come from `results/settings.json` where it has an entry, else from the method's `settings` for
the data set, which are those of a paper, else from the defaults of the constructor. The file holds
what was chosen for a data set after the method had been written, for example by a search, so that a
choice does not edit the code of a method:

    {"synth_faces": [{"method": "mmanet", "options": {"alpha": 4.0}, "source": "a search"}]}

`method` is the spec of a method in `methods/`: its options must hold for an entry to apply, so that
'distilled:loss=at' leaves other losses alone. Of two entries with a value of one option the later
one counts.

The file is read where it could change a value: not for a method all of whose options were typed.
Only the entries of the data set in question must be of this form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.options import Spec, resolve, spell, typed
from benchmark.registry import METHODS, ROOT, lookup, parse_spec

FILE = ROOT / 'results' / 'settings.json'


MAX_SOURCE = 1000
"""Characters of the longest source."""


class Entry(NamedTuple):
    """One entry of the file.

    Attributes:
        options: Option -> value.
        source: Where the values come from, in words.
    """

    options: dict[str, Any]
    source: str


def usual(spec: Spec, dataset: str, needed: bool = True) -> dict[str, Any]:
    """Returns every option of a method with the value that applies.

    Args:
        spec: The method, with the options that were typed.
        dataset: Registered name of the data set.
        needed: Whether a file that cannot be used is an error; if not, it counts as empty.

    Raises:
        UserError: An option does not exist, its value does not fit, or the file cannot be used.
    """
    plain, given = _plain(spec, dataset), dict(spec.given)
    if plain.keys() <= given.keys():
        return plain
    for entry in _entries(spec.name, plain, dataset, needed):
        plain |= {key: value for key, value in entry.options.items() if key not in given}
    return plain


def untuned(spec: Spec, dataset: str) -> Spec:
    """Returns a spec with all options typed that the file would give another value.

    A file that cannot be used gives none.
    """
    plain = _plain(spec, dataset)
    entries = _entries(spec.name, plain, dataset, needed=False)
    chosen = {key for entry in entries for key in entry.options}
    given = {**dict(spec.given), **{key: plain[key] for key in chosen}}
    return Spec(spec.name, tuple(sorted(given.items())))


def shortened(spec: Spec, dataset: str, needed: bool = True) -> Spec:
    """Returns a spec without those options whose values apply anyway, in alphabetical order.

    Arguments and errors are those of `usual`.
    """
    everything = usual(spec, dataset, needed)
    for key, _ in spec.given:
        rest = Spec(spec.name, tuple(pair for pair in spec.given if pair[0] != key))
        if usual(rest, dataset, needed) == everything:
            spec = rest
    return spec


def sources(name: str, options: dict[str, Any], dataset: str) -> list[str]:
    """Tells which of a method's options have a value of the file, and where it comes from.

    No value comes from a file that cannot be used.
    """
    told = []
    for entry in _entries(name, options, dataset, needed=False):
        same = [f'{k}={spell(v)}' for k, v in entry.options.items() if options[k] == v]
        if same:
            told.append(f'{", ".join(same)} from {entry.source}')
    return told


def _plain(spec: Spec, dataset: str) -> dict[str, Any]:
    cls = lookup(METHODS, spec.name)
    return resolve(cls, spec.name, dict(spec.given), cls.settings.get(dataset, {}))


def _entries(name: str, options: dict[str, Any], dataset: str, needed: bool) -> Iterator[Entry]:
    """Yields the entries of the file that apply to a method with certain options."""
    try:
        found = read(dataset)
    except UserError as error:
        if needed:
            raise UserError(f'{error}; --untuned leaves the file out') from error
        return
    cls = lookup(METHODS, name)
    for entry in found:
        try:
            method, under = parse_spec(entry['method'], METHODS)
            if method != name:
                continue
            held = typed(cls, name, under)
            values = typed(cls, name, entry['options'])
        except UserError as error:
            if needed:
                raise UserError(f'{FILE}: {error}; --untuned leaves the file out') from error
            continue
        if all(options[key] == value for key, value in held.items()):
            yield Entry(values, entry['source'])


def read(dataset: str) -> list[dict[str, Any]]:
    """Returns the entries of a data set in the file.

    Raises:
        UserError: The file cannot be read, or one of them is not of the form that this module
            describes.
    """
    try:
        found = read_json(FILE)
        entries = found.get(dataset, [])
        ok = isinstance(entries, list) and all(map(_is_entry, entries))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f'{FILE}: expected data sets with lists of entries ({error})') from error
    if not ok:
        raise UserError(
            f'{FILE}: {dataset}: expected entries with method (the spec of a method in methods/), '
            f'options and source (one line of at most {MAX_SOURCE} characters)'
        )
    return entries


def _is_entry(entry: Any) -> bool:
    """Returns whether an entry has the form that this module describes."""
    if not isinstance(entry, dict) or entry.keys() != {'method', 'options', 'source'}:
        return False
    method, source = entry['method'], entry['source']
    # A spec with a path would run the code in that file.
    if not isinstance(method, str) or '.py:' in method or not isinstance(entry['options'], dict):
        return False
    # Records hold the source.
    return isinstance(source, str) and source.isprintable() and len(source) <= MAX_SOURCE
