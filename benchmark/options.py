"""Options of methods and data sets: constructor annotations are the schema.

Every constructor parameter with a default is an option. The constructor of a data set may hand on
others, `**shared`, to that of its base class, whose parameters are then options, too.

Text from the command line becomes a typed value here, once, when the experiments are planned;
`spell` turns it back into text. Two spellings of one value (`kl=8e-4`, `kl=0.0008`) are therefore
one experiment with one label and one folder.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from benchmark.constructors import parameters_of
from benchmark.errors import UserError, nearest, unknown

TUPLE = '/'
"""Separates the items of a tuple; a comma does, too, where it does not separate options."""


def keyed(words: Iterable[str], where: str, form: str) -> dict[str, str]:
    """Reads words of the form key=value, as text.

    Args:
        words: The words.
        where: Where they stand, for messages.
        form: What is expected of each, for messages.

    Raises:
        UserError: A word is not of this form, or a key is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition('=')
        if not (key and equals):
            raise UserError(f'{where}: expected {form}, found {word!r}')
        if key in found:
            raise UserError(f'{where}: expected one value of {key}, found two')
        found[key] = value
    return found


class Option(NamedTuple):
    """One option of a class: the type of its values, and the value that applies if none is given.

    Attributes:
        hint: The parameter's annotation; the type of the default where there is none.
        default: The parameter's default.
    """

    hint: Any
    default: Any


class Range(NamedTuple):
    """Which numbers an option may be: by default those from 0.

    Attributes:
        least: The least number.
        most: The greatest number.
        above: Whether `least` itself is left out.
        below: Whether `most` itself is left out.
    """

    least: float = 0
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        low = f'{"more than " * self.above}{self.least:g}'
        if self.most == math.inf:
            return low if self.above else f'{low} or more'
        return f'{low} to {"below " * self.below}{self.most:g}'

    def check(self, where: str, value: Any) -> None:
        """Checks a value, and each of several; what is no number passes.

        Args:
            where: What the value is for, for messages.
            value: The value, of its option's type.

        Raises:
            UserError: It is out of range.
        """
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, bool) or not isinstance(item, int | float):
                continue
            low = self.least < item if self.above else self.least <= item
            high = item < self.most if self.below else item <= self.most
            if not (low and high):
                raise UserError(f'{where}: expected {self}, found {spell(item)}')


@dataclass(frozen=True)
class Spec:
    """A registered name with the options that were given, typed and in alphabetical order.

    Attributes:
        name: The registered name.
        given: (option, value) pairs.
    """

    name: str
    given: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """Returns `name:key=value,key=value`, the same for every spelling of the same values."""
        tail = ','.join(f'{key}={spell(value)}' for key, value in self.given)
        return f'{self.name}:{tail}' if tail else self.name


def options_of(cls: type) -> dict[str, Option]:
    """Returns the options of a method or data set class: its parameters that have a default.

    The options that all data sets have are the attribute `shared_options` of their base class.
    """
    own: dict[str, Option] = {}
    for p in parameters_of(cls):
        if p.default is not p.empty and p.kind is not p.POSITIONAL_ONLY:
            own.setdefault(p.name, Option(_hint(p), p.default))
    return {**getattr(cls, 'shared_options', {}), **own}


def _hint(parameter: inspect.Parameter) -> Any:
    if parameter.annotation is not parameter.empty and not isinstance(parameter.annotation, str):
        return parameter.annotation
    return str if parameter.default is None else type(parameter.default)


def typed(cls: type, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given options of a class as typed values.

    Numbers of a method are in the range that its attribute `ranges` names; others that are no whole
    ones, such as weights of losses, are from 0.

    Args:
        cls: A method or data set class.
        name: Its registered name, for messages.
        given: Options as text from the command line, or as values.

    Raises:
        UserError: An option does not exist, its value does not have the annotated type, or it is a
            number out of range.
    """
    options = options_of(cls)
    ranges: Mapping[str, Range] | None = getattr(cls, 'ranges', None)
    for key in given:
        if key not in options:
            raise unknown(f'option of {name}', key, options)
    found = {key: read(f'{name}:{key}', value, options[key].hint) for key, value in given.items()}
    if ranges is not None:
        for key, value in found.items():
            if key in ranges or not isinstance(value, int):
                ranges.get(key, Range()).check(f'{name}:{key}', value)
    return found


def resolve(
    cls: type, name: str, given: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns every option of a class with the value that applies.

    Args:
        cls: A method or data set class.
        name: Its registered name, for messages.
        given: Options from the command line, as text or as values.
        settings: Values between the defaults and `given` (a method's `settings` for the data set).

    Raises:
        UserError: An option does not exist, or its value does not have the annotated type.
    """
    defaults = {key: option.default for key, option in options_of(cls).items()}
    for key in settings:
        if key not in defaults:
            raise unknown(f'option of {name}', key, defaults)
    return {**defaults, **settings, **typed(cls, name, given)}


def read(where: str, value: Any, hint: Any) -> Any:
    """Reads a value as the type that an annotation names.

    Args:
        where: What the value is for, for messages.
        value: Text from the command line, or a value of another type.
        hint: str, int, float, bool, Literal[...], tuple[...], or a union with None ('none').

    Raises:
        UserError: The value does not read as that type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _read_choice(where, value, arguments)
    if origin in (types.UnionType, typing.Union):
        return _read_union(where, value, arguments)
    if origin is tuple:
        return _read_tuple(where, value, arguments)
    reader = _READERS.get(hint)
    if reader is None:
        return value
    try:
        return reader(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f'{where}: expected {WORDS[hint]}, found {value!r}') from None


def _read_choice(where: str, value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if str(value) == str(choice):
            return choice
    raise unknown(f'value of {where}', str(value), map(str, choices))


def _read_union(where: str, value: Any, members: tuple[Any, ...]) -> Any:
    """Reads a value as the first member of a union that takes it."""
    if type(None) in members and (value is None or str(value).lower() == 'none'):
        return None
    # Names before numbers and numbers before text, which would take anything.
    kinds = [m for m in members if m is not type(None)]
    kinds.sort(key=lambda m: (get_origin(m) is not Literal, m is str))
    for kind in kinds[:-1]:
        with contextlib.suppress(UserError):
            return read(where, value, kind)
    try:
        return read(where, value, kinds[-1])
    except UserError as error:
        names = [str(c) for k in kinds if get_origin(k) is Literal for c in get_args(k)]
        raise UserError(f'{error}{nearest(str(value), names)}') from None


def _read_tuple(where: str, value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, str | list | tuple):
        raise UserError(f'{where}: expected a list of values, found {value!r}')
    items = value.replace(',', TUPLE).split(TUPLE) if isinstance(value, str) else list(value)
    hints = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
    if len(items) != len(hints):
        raise UserError(
            f'{where}: expected {len(hints)} values separated by {TUPLE!r}, found {value!r}'
        )
    return tuple(read(where, item, hint) for item, hint in zip(items, hints, strict=True))


def _bool(value: Any) -> bool:
    return {'true': True, '1': True, 'false': False, '0': False}[str(value).lower()]


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    return int(value) if isinstance(value, int) else int(str(value))


def _float(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise ValueError
    return number + 0.0  # -0.0 becomes 0.0


_READERS: dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: str}


WORDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text'}
"""Type of a value -> what messages call it."""


def unpacked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options that were read from JSON as constructors take them, with tuples for lists."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return {key: tuples(value) for key, value in options.items()}


def spell(value: Any) -> str:
    """Returns a typed value as the text that the command line takes for it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix('.0')
    if isinstance(value, tuple | list):
        return TUPLE.join(map(spell, value))
    return str(value)


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """Returns a name with the options that have a value, as in 'synth_faces (train=64)'."""
    told = ', '.join(f'{key}={spell(value)}' for key, value in options.items() if value != '')
    return f'{name} ({told})' if told else name
