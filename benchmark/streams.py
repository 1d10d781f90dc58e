"""Standard output and error of the commands: a text that cannot be written ends no command.

Whatever reads the output may end before the command does (`| head -1`), the disk under a log may be
full, and a terminal may vanish. What a command records is worth more than what it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn, ParamSpec, TextIO

from benchmark.errors import UserError, unknown

P = ParamSpec('P')

UNREAD = 128 + signal.SIGPIPE
"""Exit status of a command whose output nobody reads any more, as shells report it."""


CFG = '--cfg-options'
"""The argument that takes fields of the protocol and options of data sets."""


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose errors are one line, as all errors of the commands are.

    Attributes:
        keys: Returns the names that `--cfg-options` takes as KEY=VALUE, and that are typed as
            options by mistake.
    """

    keys: Callable[[], Collection[str]] = staticmethod(tuple)

    def __init__(self, **kwargs: Any) -> None:
        # A word that begins like an argument may be a misspelling of another one.
        super().__init__(**{**kwargs, 'allow_abbrev': False})
        self.register('type', int, _whole)

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong.

        Raises:
            UserError: Always; an argument that does not exist comes with the nearest name.
        """
        what, _, words = message.partition('unrecognized arguments: ')
        if not what and words:
            raise self._unrecognised(*words.split())
        raise UserError(f'{message.removeprefix("argument ")}; --help shows all arguments')

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Checks an argument of fixed choices, as argparse does, and names the nearest one."""
        if action.choices is not None and value not in action.choices:
            name = '/'.join(action.option_strings) or action.metavar or action.dest
            raise unknown(f'value of {name}', str(value), map(str, action.choices))

    def _unrecognised(self, word: str, *others: str) -> UserError:
        """Returns the error for a word that is no argument; others follow it."""
        name, _, value = word.partition('=')
        told, key = f'unknown argument {word!r}', name.lstrip('-').replace('-', '_')
        if CFG in self._option_string_actions and not word.startswith('-') and value:
            return UserError(f'{told}: KEY=VALUE stands directly after {CFG}')
        places = self._get_positional_actions()
        single = bool(places) and all(place.nargs in (None, '?') for place in places)
        if single and not word.startswith('-'):
            names = ' and '.join(f'one {place.metavar or place.dest.upper()}' for place in places)
            return UserError(f'expected {names}, found also {word!r}; did a pattern match several?')
        if key in self.keys():
            value = value or next((other for other in others[:1] if other[:1] != '-'), 'VALUE')
            return UserError(f'{told}: it is a field of the protocol; type {CFG} {key}={value}')
        return unknown('argument', name, self._option_string_actions)


def _whole(given: str) -> int:
    """Reads a whole number of the command line, whose error would be one of Python's."""
    try:
        return int(given)
    except ValueError:
        told = f'expected a whole number, found {ascii(given[:40])}'
        raise argparse.ArgumentTypeError(told) from None


class Output(io.FileIO):
    """The file beneath standard output or error; writing to it never fails.

    Attributes:
        error: Why a text could not be written; None as long as all could.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes bytes and returns how many count as written: all of them after an error."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])  # a pipe that does not block, and is full
        except OSError as error:
            self.error = error
            return len(data)
        return count


def telling(main: Callable[P, int]) -> Callable[P, int]:
    """Returns a command that ends in one line and a status where the user made a mistake.

    Args:
        main: The command; it returns the exit status.

    Returns:
        The command, with status 2 for a mistake of the user and 130 if the user interrupted it.
    """

    @functools.wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f'error: {error}', file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return _interrupted()

    return told


def _interrupted(why: Exception | None = None) -> int:
    told = f' ({type(why).__name__}: {why})' if why else ''
    print(f'\ninterrupted; the same command goes on from here{told}', file=sys.stderr)
    return 130


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keeps what is printed in the block from standard output and error."""
    with (
        open(os.devnull, 'w') as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets an interruption from the terminal that comes within the block take effect at its end.

    Libraries that are interrupted while they are imported may go on half loaded, and fail then.
    Only the main thread of a process can be interrupted.
    """
    came: list[int] = []
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def command(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its exit status.

    Args:
        main: The command; it returns the exit status.

    Raises:
        SystemExit: With the status of the command as of `telling`; 141 if its output was no longer
            read, and 1 if it could not be written.
    """
    sys.stdout, sys.stderr = map(forgiving, (sys.stdout, sys.stderr))
    came: list[int] = []

    def interrupt(number: int, _: object) -> NoReturn:
        came.append(number)
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        status = telling(main)()
    except SystemExit as ended:  # argparse ends the process after --help
        status = int(ended.code or 0)
    except Exception as error:
        # Libraries that are interrupted while they are imported raise errors of their own.
        if not came:
            raise
        status = _interrupted(error)
    finally:
        if usual is signal.default_int_handler:
            signal.signal(signal.SIGINT, usual)
    sys.exit(_after_output(status))


def forgiving(stream: TextIO | None) -> TextIO:
    """Returns a stream that takes every text, in place of standard output or error.

    Characters that the terminal cannot show become question marks, and what cannot be written is
    lost. The error is that of the `Output` beneath the stream.

    Args:
        stream: The stream to replace; None where the process was started without it.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return open(os.devnull, 'w', encoding='utf-8') if stream is None else stream
    with contextlib.suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Output(stream.fileno(), 'w', closefd=False)),
        encoding=stream.encoding,
        errors='replace',
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def unread() -> bool:
    """Returns whether standard output is a pipe from which nobody reads any more."""
    error = _error_of(sys.stdout)
    return error is not None and error.errno == errno.EPIPE


def _error_of(stream: TextIO) -> OSError | None:
    raw = getattr(getattr(stream, 'buffer', None), 'raw', None)
    return raw.error if isinstance(raw, Output) else None


def _after_output(status: int) -> int:
    """Returns the exit status once all output is written; says so where that is not possible."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    errors = list(filter(None, map(_error_of, (sys.stdout, sys.stderr))))
    if any(error.errno == errno.EPIPE for error in errors):
        return UNREAD
    for error in errors:
        print(f'error: the output cannot be written: {error.strerror}', file=sys.stderr)
    return status or bool(errors)
