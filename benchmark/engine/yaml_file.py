"""Reads YAML files that anybody may have made, as plain data with line numbers.

Nothing in such a file can run code, read another file, or make a small text large. That is why
MMEngine's `Config.fromfile` does not read it: for YAML it uses a loader that builds any Python
object which a tag names, and it follows `_base_`. All values are texts, as on the command line;
YAML itself would turn `on` into a truth value and `010` into 8, and would leave `1e-3` a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import UserError, unknown
from benchmark.files import check_file
from benchmark.shown import one_line

SUFFIXES = ('.yaml', '.yml')

LARGEST = 100_000
"""Bytes of the largest file that is read."""

DEEPEST = 8
"""Most levels of nesting."""


class Item:
    """A value in a file.

    Args:
        file: Name of the file, for messages.
        node: The value as YAML's composer gives it.
    """

    def __init__(self, file: str, node: yaml.Node) -> None:
        self.file, self.node = file, node

    @property
    def is_text(self) -> bool:
        """Whether the value is neither a list nor has keys."""
        return isinstance(self.node, yaml.ScalarNode)

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def error(self, message: str) -> UserError:
        """Returns an error that names the file and the line of this value."""
        return _error(self.file, self.node.start_mark, message)

    def _wrong(self, expected: str) -> UserError:
        if not self.node.value:
            found = 'nothing'
        elif self.is_text:
            found = ascii(self.node.value[:40])
        else:
            found = 'a list' if self.is_list else 'keys with values'
        return self.error(f'expected {expected}, found {found}')

    def text(self, expected: str = 'one value') -> str:
        """Returns the value as text.

        Raises:
            UserError: It is a list, has keys, is empty, or has a placeholder of MMEngine's.
        """
        if not self.is_text or not self.node.value:
            raise self._wrong(expected)
        if '{{' in self.node.value:
            raise self.error('expected plain values, found {{, which nothing replaces here')
        return self.node.value

    def number(self) -> int:
        """Returns the value as a whole number.

        Raises:
            UserError: It is none.
        """
        if not re.fullmatch(r'-?[0-9]{1,18}', self.text('a whole number')):
            raise self._wrong('a whole number')
        return int(self.node.value)

    def truth(self) -> bool:
        """Returns the value as a truth value.

        Raises:
            UserError: It is neither true nor false.
        """
        if (given := self.text('true or false').lower()) not in ('true', 'false'):
            raise self._wrong('true or false')
        return given == 'true'

    def items(self, expected: str) -> list[Item]:
        """Returns the values of a list.

        Raises:
            UserError: It is no list, or it is empty.
        """
        if not self.is_list or not self.node.value:
            raise self._wrong(f'a list of {expected}')
        return [Item(self.file, node) for node in self.node.value]

    def fields(self, known: Sequence[str] = ()) -> dict[str, Item]:
        """Returns key -> value.

        Args:
            known: The keys that there may be; all if none are given.

        Raises:
            UserError: The value has no keys, or one of them is unknown, no text or given twice.
        """
        if not isinstance(self.node, yaml.MappingNode) or not self.node.value:
            raise self._wrong('keys with values')
        found: dict[str, Item] = {}
        for left, right in self.node.value:
            key = Item(self.file, left)
            word = key.text('a word as key')
            if word == '_base_':
                raise key.error('_base_: expected all in one file; no other one is read')
            if known and word not in known:
                raise key.error(str(unknown('key', word, known)))
            if word in found:
                raise key.error(f'expected the key {word} once, found it twice')
            found[word] = Item(self.file, right)
        return found


def opened(path: Path, what: str) -> Item:
    """Parses a file.

    Args:
        path: The file.
        what: What it was given as, e.g. '--grid', for messages.

    Raises:
        UserError: It cannot be read, or holds something else than plain YAML.
    """
    text, name = _content(path, what), one_line(path.name)
    loader = getattr(yaml, 'CBaseLoader', yaml.BaseLoader)
    try:
        for event, depth in _events(text, loader):
            if getattr(event, 'anchor', None) is not None:
                raise _error(name, event.start_mark, 'expected no anchors (&) and aliases (*)')
            if getattr(event, 'tag', None) is not None:
                raise _error(name, event.start_mark, f'expected no tags, found {event.tag[:40]}')
            if depth > DEEPEST:
                raise _error(name, event.start_mark, f'expected at most {DEEPEST} levels')
        root = yaml.compose(text, loader)
    except yaml.YAMLError as error:
        mark, why = getattr(error, 'problem_mark', None), getattr(error, 'problem', None)
        raise _error(name, mark, f'it is no YAML: {why or "it holds control characters"}') from None
    if root is None:
        raise UserError(f'{name}: expected keys with values, found an empty file')
    return Item(name, root)


def _events(text: str, loader: Any) -> Iterator[tuple[yaml.Event, int]]:
    """Parses a text without recursion, so that no depth ends the interpreter."""
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        yield event, depth


def _content(path: Path, what: str) -> str:
    """Returns the text of a file.

    Raises:
        UserError: It cannot be read, is too large, or is no text.
    """
    try:
        check_file(path)
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f'expected at most {LARGEST} bytes, found {size}')
        return path.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UserError(f'{what} {path}: cannot be read: {error.strerror}') from error
    except UnicodeDecodeError:
        raise UserError(f'{what} {path}: expected text in UTF-8, found other bytes') from None
    except ValueError as error:
        raise UserError(f'{what} {path}: {error}') from error


def _error(name: str, mark: yaml.Mark | None, message: str) -> UserError:
    return UserError(f'{name}{f", line {mark.line + 1}" if mark else ""}: {message}')
