"""One file for each method; `benchmark.registry.discover` imports every file in this folder."""

import importlib
import sys


def _import_mmsegmentation() -> None:
    """Imports the models of mmsegmentation without timm, which they import where it is installed.

    That would take a second, for a backbone that nothing here uses, and it ends in an error where
    the torchvision that timm needs was built for another PyTorch.
    """
    if 'timm' in sys.modules:
        return
    sys.modules['timm'] = None  # type: ignore[assignment]  # an import then says: not found
    try:
        importlib.import_module('mmseg.models')
    finally:
        del sys.modules['timm']


_import_mmsegmentation()
