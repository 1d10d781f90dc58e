"""Import of packages that only some data sets need (`pip install .[data]`)."""

from __future__ import annotations

import importlib
from typing import Any

from benchmark.errors import UserError


def package(name: str, dataset: str) -> Any:
    """Imports a module of an optional package and returns it.

    Args:
        name: Name of the module, e.g. 'scipy.io'.
        dataset: Name of the data set, or kind of data, that needs it, for the message.

    Raises:
        UserError: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'{dataset}: expected the package {name}, found: {error}; pip install .[data]'
        ) from None
