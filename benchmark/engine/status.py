"""What lies in a results folder: what is done, runs, was stopped or failed, and what is left.

Nothing is opened but records, short JSON files and the first bytes of resume files: no data, no
weights, no PyTorch. The folder may come from somebody else, and everything in it is text to show.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import files
from benchmark.engine import locks
from benchmark.engine.contents import ANEW, EARLIER, OWNER, RESUME, SEARCH, TRIAL, saved_epochs
from benchmark.errors import UserError
from benchmark.options import with_options
from benchmark.records import repetition, store

WIDTH = 160
"""Most characters of a reason why something failed."""

NO_SEED = -1
"""The number of what is trained before searches, such as a teacher."""

STATES = ('done', 'running', 'resumable', 'trained', 'begun', 'diverged', 'failed', 'refused')
"""What may be said of a run or a trial, in the order in which it is told."""


class Item(NamedTuple):
    """A run or a trial.

    Attributes:
        number: Its seed, or the number of the trial.
        state: One of `STATES`.
        detail: The epoch, or why it failed.
    """

    number: int
    state: str
    detail: str


class Row(NamedTuple):
    """The seeds of a method, the trials of a search, or what is trained before searches.

    Attributes:
        dataset: Name of the data set's folder.
        protocol: Id of the protocol.
        text: What the row is.
        items: Its runs or trials.
        trials: Number of trials of the search, 0 where it is not known; None for runs.
        title: The data set with its options that are not the defaults, where a record tells them.
    """

    dataset: str
    protocol: str
    text: str
    items: list[Item]
    trials: int | None = None
    title: str = ''


def show(results: Path, clean: Callable[[str], str]) -> int:
    """Prints what lies in a results folder, and returns the exit status 0.

    Args:
        results: The folder.
        clean: Makes text from files what a terminal can do nothing with but show.

    Raises:
        UserError: There is no such folder.
    """
    if not results.is_dir():
        raise UserError(f'--status: expected a results folder, found none at {results}')
    problems: list[str] = []
    runs = _runs(results / 'runs', problems)
    searches = _searches(results / 'tuning', problems)
    rows = [*runs, *searches]
    for dataset, protocol in sorted({row[:2] for row in rows}):
        mine = [row for row in rows if row[:2] == (dataset, protocol)]
        title = max((row.title for row in mine), default='') or dataset
        print(clean(f'{title} {protocol}'))
        width = min(40, max(len(row.text) for row in mine))
        for row in mine:
            print(f'  {clean(row.text):{width}}  {clean(_told(row))}')
    for problem in dict.fromkeys(problems):
        print(clean(problem))
    print(_total(results, runs, searches))
    return 0


def _told(row: Row) -> str:
    """Tells the seeds of a row, those of one state and reason together, or counts trials."""
    groups: dict[tuple[str, str], list[int]] = {}
    for item in sorted(row.items, key=lambda item: (STATES.index(item.state), item.number)):
        reason = textwrap.shorten(item.detail, WIDTH, placeholder=' ...')
        groups.setdefault((item.state, reason), []).append(item.number)
    if row.trials is None:
        parts = [(f'{_seeds(n)}{state}', why) for (state, why), n in groups.items()]
    else:
        ended = sum(item.state in ('done', 'diverged') for item in row.items)
        beyond = f' of {max(row.trials, ended)}' if row.trials else ''
        others = [(f'{len(n)} {state}', why) for (state, why), n in groups.items()
                  if state != 'done']  # fmt: skip
        parts = [(f'{ended}{beyond} trials', ''), *others]
    return '; '.join(f'{what} ({why})' if why else what for what, why in parts)


def _seeds(numbers: list[int]) -> str:
    """Spells seeds in ascending order, e.g. 'seeds 0-4 7 '; the teacher of searches has none."""
    if numbers == [NO_SEED]:
        return ''
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    told = ' '.join('-'.join(map(str, span)) for span in spans)
    return f'seed{"s" if len(numbers) > 1 else ""} {told} '


def _total(results: Path, runs: list[Row], searches: list[Row]) -> str:
    counts = Counter(item.state for row in runs for item in row.items)
    if not counts and not searches:
        return f'nothing has been run here{files.elsewhere(results)}'
    told = ', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])
    trials = sum(len(row.items) for row in searches if row.trials is not None)
    number = sum(counts.values())
    parts = [f'{number} run{"s" if number > 1 else ""}: {told}'] if counts else []
    return '; '.join([*parts, *([f'{trials} trials of searches'] if trials else [])])


def _runs(root: Path, problems: list[str]) -> list[Row]:
    scan = store.scan(root)
    problems += scan.problems
    rows = []
    for place in _rows(root, problems):
        items, label, title = [], place.parent.name, ''
        for folder, seed in _numbered(place, 'seed', problems):
            file = folder / store.RECORD
            record: Any = scan.complete.get(file) or scan.unscored.get(file)
            if record:
                label, title = record['method']['label'], _title(record['dataset'])
            items.append(Item(seed, *_state(folder, record, problems)))
        if items:
            rows.append(Row(place.parent.parent.name, place.name, label, items, None, title))
    return rows


def _title(data: Any) -> str:
    title = with_options(data['name'], repetition.changed(data))
    return textwrap.shorten(title, WIDTH, placeholder=' ...')


def _searches(root: Path, problems: list[str]) -> list[Row]:
    rows = []
    for place in _rows(root, problems):
        dataset, name = place.parent.parent.name, place.parent.name
        search = _object(place / SEARCH, problems)
        trials = [
            Item(number, *_state(folder, _result(folder / TRIAL, problems), problems))
            for folder, number in _numbered(place, 'trial', problems, EARLIER)
        ]
        for kind in EARLIER:
            if (place / kind).is_dir():
                state = _state(place / kind, None, problems)
                label = f'{kind} {name} of searches'
                rows.append(Row(dataset, place.name, label, [Item(NO_SEED, *state)]))
        if trials:
            label, asked = str(search.get('label', name)), search.get('trials', 0)
            count = asked if isinstance(asked, int) else 0
            rows.append(Row(dataset, place.name, f'search {label}', trials, count))
    return rows


def _rows(root: Path, problems: list[str]) -> list[Path]:
    """Returns the folders <data set>/<row>/<protocol> below a folder."""
    below = [root]
    for _ in range(3):
        below = [inner for folder in below for inner in _folders(folder, problems)]
    return below


def _folders(folder: Path, problems: list[str], known: tuple[str, ...] = ()) -> list[Path]:
    """Returns the folders in a folder; what is none is named, unless it is known or hidden."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f'{folder}: cannot be read: {error.strerror}')
        return []
    found = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            found.append(Path(entry.path))
        elif entry.name not in known and not entry.name.startswith('.'):
            problems.append(f'{entry.path}: expected a folder; this belongs to no run')
    return found


def _numbered(
    place: Path, word: str, problems: list[str], others: tuple[str, ...] = ()
) -> Iterator[tuple[Path, int]]:
    """Returns the folders that are called by a word and a number, with the number."""
    found = []
    for folder in _folders(place, problems, (SEARCH,)):
        match = re.fullmatch(rf'{word}(0|[1-9][0-9]{{0,17}})', folder.name)
        if match:
            found.append((folder, int(match[1])))
        elif folder.name not in others:
            problems.append(f'{folder}: expected {word}<number>; this belongs to no run')
    return iter(sorted(found, key=lambda pair: pair[1]))


def _state(folder: Path, ended: Any, problems: list[str]) -> tuple[str, str]:
    """Returns the state of a run or a trial, and the epoch or the reason.

    Args:
        folder: Its folder.
        ended: Its record or result, if it has one.
        problems: Takes what cannot be read.
    """
    if locks.is_held(folder):
        anew = folder / ANEW
        return 'running', _epoch(anew if anew.is_dir() else folder, 'epoch', problems)
    if ended is not None:
        status = 'done' if ended['status'] == 'complete' else ended['status']
        return status, str(ended.get('error', ''))
    if (folder / store.TRAINED).is_file():
        return 'trained', ''
    epoch = _epoch(folder, 'at epoch', problems)
    return ('resumable' if epoch else 'begun'), epoch


def _epoch(folder: Path, word: str, problems: list[str]) -> str:
    """Tells at which epoch a training is or goes on, '' if none has ended or is known.

    A method with a network for each subset has a folder for each.
    """
    inner = [path for path in _folders(folder, []) if not path.name.startswith('.')]
    told = []
    if count := sum((path / store.TRAINED).is_file() for path in inner):
        told.append(f'{count} networks trained')
    for path in [folder, *inner]:
        owner = _object(path / OWNER, problems)
        done = _epochs_done(path / RESUME, problems) if owner else 0
        if done:
            epochs = owner.get('epochs')  # files of older versions do not say
            at = f'{done + 1}'
            if isinstance(epochs, int):
                at = f'{min(done + 1, epochs)} of {epochs}'
            told.append(f'{path.name if path != folder else ""} {word} {at}'.strip())
    return ', '.join(told)


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    """Returns the object in a JSON file, an empty one if there is none, or it is damaged."""
    try:
        found = files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f'expected an object, found {type(found).__name__}')
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problems.append(f'{path}: cannot be read: {getattr(error, "strerror", None) or error}')
        return {}
    return found


def _result(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Returns what became of a trial, None if it has not ended or the file is damaged."""
    found = _object(path, problems)
    if found and found.get('status') not in ('complete', 'diverged', 'failed'):
        problems.append(f'{path}: it is no result of a trial')
        return None
    return found or None


def _epochs_done(path: Path, problems: list[str]) -> int:
    """Returns how many epochs a resume file holds: 0 if there is none, or it is damaged."""
    try:
        return saved_epochs(path)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        problems.append(f'{path}: cannot be read: {getattr(error, "strerror", None) or error}')
        return 0
