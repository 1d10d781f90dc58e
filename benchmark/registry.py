"""METHODS and DATASETS: found by being in `methods/` and `datasets/`.

A file that fails to import is noted and named when asked for; the others keep working.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from mmengine.registry import Registry

from benchmark.errors import UserError, nearest, unknown
from benchmark.files import ROOT, user_path
from benchmark.names import check_spec, given_in
from benchmark.shown import terminal
from benchmark.streams import uninterrupted

LONGEST = 60
"""Most characters in a registered name, which becomes part of the names of folders."""


def file_of(cls: type) -> Path:
    """Returns the file of a class, relative to the project where it lies inside it."""
    file = Path(getattr(sys.modules.get(cls.__module__), '__file__', None) or cls.__module__)
    return file.relative_to(ROOT) if file.is_relative_to(ROOT) else file


def near(file: Path) -> Path:
    """Returns a file as seen from the project or the current folder, where it lies in one."""
    for folder in (ROOT, Path.cwd()):
        if file.is_relative_to(folder):
            return file.relative_to(folder)
    return file


def name_of(cls: type) -> str:
    """Returns the name under which a method is registered, which is what users type.

    A class that is not registered, as a base of others may be, has the name of the class.
    """
    found = (name for name, known in METHODS.module_dict.items() if known is cls)
    return next(found, cls.__name__)


class Taken(UserError):
    """Another file has registered the name.

    Args:
        registry: 'method' or 'data set'.
        name: The name.
        owner: The class that has it.
    """

    def __init__(self, registry: str, name: str, owner: type) -> None:
        where = near(file_of(owner))
        super().__init__(f'{registry} {name!r} is registered by {where} already; choose a new name')
        self.name = name


class Names(Registry):
    """A registry in which every name belongs to one file."""

    @property
    def what(self) -> str:
        """What it registers, in words."""
        return 'data set' if self.name == 'dataset' else self.name

    def register_module(self, name: Any = None, force: bool = False, module: Any = None) -> Any:
        """Registers a class as mmengine's registry does.

        Raises:
            Taken: Another class has the name.
            UserError: The name cannot be typed, or cannot be part of the name of a folder.
        """
        for taken in [name] if isinstance(name, str) else name or []:
            if not re.fullmatch(r'\w[\w.+-]*', taken) or len(taken) > LONGEST:
                raise UserError(
                    f'{self.what} name: expected a letter or digit, then letters, digits and '
                    f'. _ + -, at most {LONGEST} characters in all, found {taken[:100]!r}'
                )
            if taken in self.module_dict and not force:
                raise Taken(self.what, taken, self.module_dict[taken])
        return super().register_module(name, force, module)


METHODS = Names('method', scope='benchmark', locations=['methods'])
DATASETS = Names('dataset', scope='benchmark', locations=['datasets'])

COMMANDS = ('datasets/prepare.py', 'datasets/preview.py')
"""Files that are typed on the command line and register nothing."""

BROKEN: dict[str, str] = {}
"""File -> why it could not be imported."""

LOADED: dict[str, set[type]] = {}
"""Path of a file outside the tree -> the classes that were registered while it was imported."""

CLAIMED: dict[str, str] = {}
"""Name -> the error, of names that two files register."""


def discover() -> None:
    """Imports every module of `methods/` and `datasets/`; safe to call again.

    An interruption from the terminal takes effect at the end: it is no fault of a module.
    """
    with uninterrupted():
        for folder in ('methods', 'datasets'):
            for file in sorted((ROOT / folder).glob('[!_]*.py')):
                if f'{folder}/{file.name}' not in COMMANDS:
                    _import(f'{folder}.{file.stem}', file)


def _import(module: str, file: Path) -> None:
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script may end the interpreter
        BROKEN[str(file.relative_to(ROOT))] = _where(error, file)
        if isinstance(error, Taken):
            # Which of the two files a user means by the name is not known.
            CLAIMED.setdefault(error.name, f'{file.relative_to(ROOT)}: {error}')


def _where(error: BaseException, file: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    if isinstance(error, Taken):
        return str(error)
    line = f' (line {frames[-1].lineno})' if frames else ''
    kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
    return f'{terminal(f"{kind}{error}")}{line}'


def parse_spec(spec: str, registry: Names | None = None) -> tuple[str, dict[str, str]]:
    """Splits 'name:key=value,key=value' (or 'path/to/file.py:name:key=value') into its parts.

    Args:
        spec: The spec.
        registry: Where a file has to register the name; None for either registry.

    Raises:
        UserError: An option is not of the form key=value, or a file cannot be loaded, comes
            without a name, or does not register the name.
    """
    check_spec(spec)
    path, in_file, rest = spec.partition('.py:')
    name, _, tail = (rest if in_file else spec).partition(':')
    if in_file:
        load_file(Path(f'{path}.py'))
        check_registers(Path(f'{path}.py'), name, registry)
    return name, given_in(spec, tail)


def load_file(path: Path) -> None:
    """Imports a method or dataset file that lies outside the tree.

    Raises:
        UserError: The file does not exist or raises on import.
    """
    place = _place(path)
    # Files of one name in two folders are two modules.
    name = f'outside_{path.stem}_{hashlib.sha256(place.encode()).hexdigest()[:8]}'
    # A file of methods/ or datasets/ may be named by its path, too: it is registered already.
    if any(getattr(module, '__file__', None) == place for module in list(sys.modules.values())):
        return
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f'{path}: cannot be loaded as a Python module')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    known = _classes()
    try:
        spec.loader.exec_module(module)
        LOADED[place] = _classes() - known
    except BaseException as error:  # a script may end the interpreter
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        told = near(path.resolve()) if isinstance(error, Taken) else path
        raise UserError(f'{told}: {_where(error, path.resolve())}') from error


def _place(path: Path) -> str:
    return str(user_path(str(path)).resolve())


def _classes() -> set[type]:
    return {cls for registry in (METHODS, DATASETS) for cls in registry.module_dict.values()}


def check_registers(path: Path, name: str, registry: Names | None = None) -> None:
    """Checks that a file which was loaded registers a name, or imports a file that does.

    Otherwise something else of this name would be used, and the file that was named would not.

    Args:
        path: The file.
        name: The name.
        registry: Where it has to be registered; None for either registry.

    Raises:
        UserError: It does not; what it registers is named.
    """
    place = _place(path)
    kinds = [registry] if registry else [METHODS, DATASETS]
    own = [
        known
        for kind in kinds
        for known, cls in kind.module_dict.items()
        if cls in LOADED.get(place, ())
        or getattr(sys.modules.get(cls.__module__), '__file__', None) == place
    ]
    if name in own:
        return
    found = ', '.join(map(repr, own)) + nearest(name, own)
    if not own:
        found = f"nothing; is the line @{kinds[0].name.upper()}S.register_module('...') missing?"
    what = ' or '.join(kind.what for kind in kinds)
    raise UserError(f'{path}: registers no {what} {name!r} (it registers {found})')


def lookup(registry: Names, name: str) -> Any:
    """Returns the class registered as `name`.

    Raises:
        UserError: Nothing is registered so, two files register it, or its file failed to import.
    """
    if name in CLAIMED:
        raise UserError(CLAIMED[name])
    # Not Registry.get: that imports a module of this name from anywhere on the path.
    found = registry.module_dict.get(name)
    if found is not None:
        return found
    for file, why in BROKEN.items():
        if Path(file).stem == name:
            raise UserError(f'{registry.what} {name!r} cannot be used: {file}: {why}')
    raise unknown(registry.what, name, registry.module_dict, several=True)
