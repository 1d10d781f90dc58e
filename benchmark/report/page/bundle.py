"""The JavaScript of Vega, Vega-Lite and vega-embed, which the page holds itself."""

from __future__ import annotations

import contextlib
import functools
from importlib import metadata

from benchmark.errors import UserError
from benchmark.files import cache_folder, writing

PACKAGE = 'vl-convert-python'


@functools.cache
def javascript() -> str:
    """Returns the JavaScript that draws the charts.

    The package keeps its parts apart, and joining them takes seconds. The result is kept in the
    user's cache folder, which may be deleted at any time.

    Raises:
        UserError: The package is not installed.
    """
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(f'charts need the package {PACKAGE} (pip install .)') from None
    kept = cache_folder() / f'vega-{version}.js'
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return kept.read_text(encoding='utf-8')
    import vl_convert  # loads 80 MB, which a page from the cache does not need

    # The stub of the package lacks the default of the argument.
    text = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    with contextlib.suppress(UserError), writing(kept) as file:
        file.write(text.encode())
    return text
