"""What the project's Python files say of themselves, read without importing them.

The documentation is built where PyTorch is not installed, so nothing of the project is executed:
classes, docstrings and defaults are taken from the syntax trees.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent


class Unknown(Exception):
    """The value of an expression follows only from running the code."""


class Option(NamedTuple):
    """A constructor's keyword: default and annotation as text, meaning from the section Args."""

    name: str
    default: str
    annotation: str
    meaning: str


class Docstring(NamedTuple):
    """A Google docstring: what stands before the sections; section -> name -> meaning."""

    text: str
    sections: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Module:
    """A parsed file."""

    path: Path
    tree: ast.Module

    @functools.cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """Name -> class, in the order of the file."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    def origin(self, name: str) -> tuple[Module, str] | None:
        """Returns the project's module that a name was imported from, and its name there."""
        for node in self.tree.body:
            for alias in node.names if isinstance(node, ast.ImportFrom) else []:
                path = ROOT / f'{(node.module or "").replace(".", "/")}.py'
                if name == (alias.asname or alias.name) and path.is_file():
                    return read(path), alias.name
        return None


@functools.cache
def read(path: Path) -> Module:
    """Parses a file, once."""
    return Module(path, ast.parse(path.read_text(encoding='utf-8')))


def assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Returns name -> expression of the plain and annotated assignments of a body."""
    found: dict[str, ast.expr] = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({t.id: node.value for t in targets if isinstance(t, ast.Name)})
    return found


@dataclass(frozen=True)
class Class:
    """A class of the project."""

    module: Module
    node: ast.ClassDef

    @property
    def docstring(self) -> Docstring:
        """Its own docstring, taken apart."""
        return docstring(ast.get_docstring(self.node) or '')

    @functools.cached_property
    def lineage(self) -> list[Class]:
        """The class and those of its bases that the project defines, nearest first."""
        names = [base.id for base in self.node.bases if isinstance(base, ast.Name)]
        bases = [found for name in names if (found := locate(self.module, name))]
        return [self, *(cls for base in bases for cls in base.lineage)]

    def expression(self, name: str) -> tuple[Module, ast.expr] | None:
        """Returns the expression behind a class attribute and its module; None if none sets it."""
        for cls in self.lineage:
            if name in (own := assigned(cls.node.body)):
                return cls.module, own[name]
        return None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Returns a class attribute; its text where only running the code gives a value."""
        found = self.expression(name)
        try:
            return value(*found) if found else default
        except Unknown as error:
            return str(error)

    @property
    def options(self) -> list[Option]:
        """The parameters of the constructor that have defaults, and those that it hands on."""
        told = [cls.docstring.sections.get('Args', {}) for cls in reversed(self.lineage)]
        meanings = {name: text for section in told for name, text in section.items()}
        found: dict[str, Option] = {}
        for owner, init in self._constructors():
            for argument, default in _with_defaults(init.args):
                kind = annotated(owner.module, argument.annotation)
                meaning, text = meanings.get(argument.arg, ''), spelled(owner.module, default)
                found.setdefault(argument.arg, Option(argument.arg, text, kind, meaning))
        return [*found.values()]

    def _constructors(self) -> Iterator[tuple[Class, ast.FunctionDef]]:
        """Yields the constructor, and as long as one hands on `**others`, that of the next base."""
        for cls in self.lineage:
            for node in cls.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == '__init__':
                    yield cls, node
                    if node.args.kwarg is None:
                        return


def _with_defaults(given: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr]]:
    """Yields the parameters that can be named and have defaults, with these."""
    # Defaults belong to the last of the plain parameters; None marks a keyword without one.
    plain = [*given.posonlyargs, *given.args]
    pairs = [*zip(plain[len(plain) - len(given.defaults) :], given.defaults, strict=True)]
    yield from (pair for pair in pairs if pair[0] not in given.posonlyargs)
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        if default is not None:
            yield argument, default


def annotated(module: Module, node: ast.expr | None) -> str:
    """Returns an annotation as text, with what the project's names for types stand for."""
    if isinstance(node, ast.Name):
        if node.id in (own := assigned(module.tree.body)):
            return annotated(module, own[node.id])
        if origin := module.origin(node.id):
            return annotated(origin[0], ast.Name(origin[1]))
    return ast.unparse(node) if node else ''


def locate(module: Module, name: str) -> Class | None:
    """Returns the class that a name stands for in a module; None if it is not the project's."""
    if name in module.classes:
        return Class(module, module.classes[name])
    origin = module.origin(name)
    return locate(*origin) if origin else None


def value(module: Module, node: ast.expr) -> Any:
    """Returns the value of an expression of literals, constants and other classes' attributes.

    Raises:
        Unknown: It follows only from running the code.
    """
    match node:
        case ast.Name(id=name) if name in (own := assigned(module.tree.body)):
            return value(module, own[name])
        case ast.Name(id=name) if origin := module.origin(name):
            return value(origin[0], ast.Name(origin[1]))
        case ast.Attribute(value=ast.Name(id=name)) if cls := locate(module, name):
            return cls.attribute(node.attr)
        case ast.JoinedStr(values=parts):
            inner = [p.value if isinstance(p, ast.FormattedValue) else p for p in parts]
            return ''.join(str(value(module, part)) for part in inner)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {value(module, k): value(module, v) for k, v in pairs if k is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise Unknown(ast.unparse(node)) from None


def spelled(module: Module, node: ast.expr) -> str:
    """Returns an expression as text, with the values of constants in place of their names."""
    try:
        return repr(value(module, node))
    except Unknown:
        return ast.unparse(node)


def registered(folder: str) -> Iterator[tuple[str, Class]]:
    """Yields (registered name, class) of 'methods' or 'datasets', by name."""
    found = {}
    for path in sorted((ROOT / folder).glob('[!_]*.py')):
        for node in read(path).classes.values():
            for call in node.decorator_list:
                if ast.unparse(call).startswith(f'{folder.upper()}.register'):
                    (name,) = call.args if isinstance(call, ast.Call) else ()
                    found[ast.literal_eval(name)] = Class(read(path), node)
    yield from sorted(found.items())


def docstring(text: str) -> Docstring:
    """Takes a Google docstring apart."""
    titles = r'^(Args|Attributes|Raises|Returns):\n'
    head, *rest = re.split(titles, inspect.cleandoc(text), flags=re.MULTILINE)
    sections = {}
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        items = re.findall(r'^ {4}(\w+): (.*(?:\n {5,}.*)*)', body, re.MULTILINE)
        sections[title] = {name: ' '.join(meaning.split()) for name, meaning in items}
    return Docstring(head.strip(), sections)
