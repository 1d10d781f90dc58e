"""Errors that the user can mend; the command line prints them as one line."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

from benchmark.shown import terminal

COMPLETE_ONLY = 'trains on complete samples only'
"""Why a method refuses training data with gaps, in messages and tables."""


class UserError(Exception):
    """A mistake in the arguments, the data or a method's options; printed without a traceback."""

    def __init__(self, message: str) -> None:
        # A loader process wraps what it raises in its traceback; the mistake is the last line.
        if 'in DataLoader worker process' in message:
            message = message.strip().splitlines()[-1].partition('UserError: ')[2]
        # Names in data and files may hold what a terminal would obey.
        super().__init__(terminal(message))


def nearest(found: str, choices: Iterable[str], alike: float = 0.5) -> str:
    """Returns '; did you mean ...?' with the nearest of some names, nothing if none is near.

    Args:
        found: The name as the user gave it.
        choices: The names that exist.
        alike: How alike two near names are at least, from 0 to 1 (`difflib`).
    """
    folded = {name.lower(): name for name in sorted(choices)}
    near = difflib.get_close_matches(found.lower(), folded, n=1, cutoff=alike)
    return f'; did you mean {folded[near[0]]!r}?' if near else ''


def unknown(
    what: str,
    found: str,
    choices: Iterable[str],
    unlisted: Iterable[str] = (),
    several: bool = False,
    alike: float = 0.5,
) -> UserError:
    """Builds the error for a name that is not one of `choices`, with the nearest one.

    Args:
        what: Kind of thing that was named, e.g. 'method'.
        found: The name as the user gave it.
        choices: The names that exist.
        unlisted: Names that exist as well, and would only make the list long.
        several: Whether several names may stand there, separated by spaces.
        alike: As in `nearest`.
    """
    names = sorted(choices)
    known = ', '.join(names) or 'none'
    near = nearest(found, [*names, *unlisted], alike)
    if several and set(found.split(',')) <= {*names}:
        near = '; names are separated by spaces'
    return UserError(f'unknown {what} {found!r}{near} (known: {known})')


def cause(error: BaseException) -> str:
    """Returns the first sentence of what caused an error of a library, without its colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    told = re.sub(r'\x1b\[[0-9;]*m', '', str(error)).strip() or type(error).__name__
    return re.split(r'\.\s+(?=[A-Z])|\n', told)[0].rstrip('.')[:200]


@contextlib.contextmanager
def noting(what: str, errors: list[UserError]) -> Iterator[None]:
    """Notes whatever goes wrong in the block, so that what comes after it is done nevertheless.

    Args:
        what: What is made in the block.
        errors: Takes the error; one that is no mistake of the user's becomes one that names `what`.
    """
    try:
        yield
    except UserError as error:
        errors.append(error)
    except Exception as error:
        errors.append(UserError(f'{what} cannot be made: {type(error).__name__}: {error}'))


@contextlib.contextmanager
def listing(what: str, refused: list[str] | None) -> Iterator[None]:
    """Prints what is refused in the block, where a plan is made; a run ends there.

    Args:
        what: What would run, as the plan names it.
        refused: Takes what is refused in a plan; None in a run.

    Raises:
        UserError: It is refused, and this is a run.
    """
    try:
        yield
    except UserError as error:
        if refused is None:
            raise
        refused.append(what)
        print(f'refused   {what}  {error}', flush=True)


class Refusals:
    """What of a command is refused: a plan lists it at once, a run names all of it in one line.

    Args:
        listed: As `refused` in `listing`.
    """

    def __init__(self, listed: list[str] | None) -> None:
        self.listed = listed
        self.found: dict[str, UserError] = {}

    @contextlib.contextmanager
    def noting(self, dataset: str, label: str, seed: int) -> Iterator[None]:
        """Notes what is refused in the block, which is about an experiment."""
        try:
            with listing(f'{dataset}  {label}  seed {seed}', self.listed):
                yield
        except UserError as error:
            self.found.setdefault(f'{label} on {dataset}', error)

    def tell(self) -> None:
        """Tells what was refused.

        Raises:
            UserError: Something was. It is the first error, with the names of all that was refused
                for another reason, or for a like one of their own.
        """
        if not self.found:
            return
        first, *_ = self.found.values()
        others = [who for who, error in self.found.items() if str(error) != str(first)]
        more = f'; refused as well: {", ".join(others)} (--dry-run says why)' if others else ''
        raise UserError(f'{first}{more}')
