"""Packages that only some datasets need."""

from __future__ import annotations

import importlib
from typing import Any

from benchmark.errors import UserError


def package(name: str, dataset: str) -> Any:
    """Returns the module `name`, imported now.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'{dataset}: expected the package {name}, found: {error}; pip install .[data]'
        ) from None
