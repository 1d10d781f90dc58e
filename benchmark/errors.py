"""Mistakes of the user, told in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the arguments, the data or a method's options; printed without a traceback."""


def unknown(what: str, found: str, choices: Iterable[str]) -> UserError:
    """Builds the error for a name that is not one of `choices`, with the nearest one.

    Args:
        what: Kind of thing that was named, e.g. 'method'.
        found: The name as the user gave it.
        choices: The names that exist.
    """
    names = sorted(choices)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(found.lower(), folded, n=1, cutoff=0.5)
    hint = f'; did you mean {folded[near[0]]!r}?' if near else ''
    return UserError(f'unknown {what} {found!r}{hint} (known: {", ".join(names) or "none"})')
