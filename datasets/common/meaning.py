"""What the numbers in a user's label maps mean: which are classes, and which are ignored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.dataset import VOID, Intake, Rows
from benchmark.errors import UserError
from benchmark.method import IGNORE
from datasets.common.io.rows import Chosen

STRANGE = -2
"""Stands for a number that means nothing."""

MOST = 65535
"""The greatest number of classes; numbers beyond it are ids of something else."""


@dataclass(frozen=True)
class Meaning:
    """What the numbers in label maps mean.

    Attributes:
        ignore: The number of pixels that are left out of losses and metrics; None if there are
            none. The other numbers are the classes, as in mmsegmentation's `ignore_index`.
        reduced: Whether 0 is left out, and k + 1 is class k, as in mmsegmentation's
            `reduce_zero_label`; 255 is left out, too.
        binary: Whether the numbers are 0 and 255, which is class 1.
    """

    ignore: int | None = VOID
    reduced: bool = False
    binary: bool = False

    @property
    def usual(self) -> bool:
        """Whether the numbers are the classes, and 255 is left out."""
        return self == Meaning()

    @property
    def ignored(self) -> tuple[int, ...]:
        """The numbers that are left out."""
        if self.binary:
            return ()
        return (0, VOID) if self.reduced else () if self.ignore is None else (self.ignore,)

    @property
    def given(self) -> list[str]:
        """The options that are not as usual, as they are typed."""
        return [
            *(['binary=true'] if self.binary else []),
            *(['reduce_zero_label=true'] if self.reduced else []),
            *([f'ignore_label={self.ignore}'.lower()] if self.ignore != VOID else []),
        ]

    @property
    def options(self) -> tuple[object, ...]:
        """What a fingerprint has to hold beside the files; nothing for the older options."""
        return () if self.ignore == VOID and not self.reduced else (self.ignore, self.reduced)

    def check(self, where: str) -> None:
        """Checks that the options fit each other.

        Raises:
            UserError: They contradict each other.
        """
        if len(self.given) > 1:
            raise UserError(
                f'{where}: expected one of binary, reduce_zero_label and ignore_label, each of '
                f'which says what is ignored, found {" and ".join(self.given)}'
            )

    def check_unused(self, where: str, found: str) -> None:
        """Checks that no option tells of label maps, where there are none.

        Args:
            where: What holds the labels, for messages.
            found: What there is instead of label maps.

        Raises:
            UserError: One does.
        """
        if self.given:
            raise UserError(f'{where}: expected label maps with {self.given[0]}, found {found}')

    def classes(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the classes of numbers, int32; IGNORE and STRANGE for those that are none."""
        found = np.asarray(numbers).astype(np.int64)
        if self.binary:
            found = np.where(found == VOID, 1, np.where(found == 0, 0, STRANGE))
        else:
            out = np.isin(found, self.ignored)
            found = np.where(out, IGNORE, np.where(found < 0, STRANGE, found - self.reduced))
        return np.where(found > MOST, STRANGE, found).astype(np.int32)

    def of(self, numbers: Iterable[int]) -> set[int]:
        """Returns the classes among numbers."""
        found = self.classes(np.array(sorted(numbers), np.int64))
        return {*found[found >= 0].tolist()}

    def strange(self, numbers: Iterable[int], count: int = MOST) -> list[int]:
        """Returns the numbers that are neither one of some classes nor left out, ascending."""
        every = np.array(sorted(numbers), np.int64)
        found = self.classes(every)
        return every[(found == STRANGE) | (found >= count)].tolist()

    def rows(self, source: np.ndarray, rows: np.ndarray, classes: int) -> Rows:
        """Returns rows of stored label maps as a split of K classes has them."""
        return Chosen(source, rows) if self.usual else Translated(source, rows, self, classes)

    def table(self, classes: int) -> tuple[int, ...] | None:
        """Returns what `datasets.common.io.images.LabelFile` needs; None for the usual meaning.

        Args:
            classes: Number of classes K.
        """
        if self.usual and classes <= VOID:
            return None
        # Numbers of 16 bits, unless none above 255 can mean anything.
        numbers = np.arange(256 if classes < VOID and max(self.ignored, default=0) < 256 else 65536)
        found = self.classes(numbers)
        if classes <= VOID:
            found = np.where(found == IGNORE, VOID, np.where(found >= classes, -1, found))
        return tuple(np.where(found == STRANGE, -1 if classes <= VOID else STRANGE, found).tolist())

    def numbers(self, classes: np.ndarray) -> np.ndarray:
        """Returns predicted classes as the numbers that stand for them in label maps."""
        if self.binary:
            return classes * np.uint8(255)
        if not self.reduced:
            return classes
        return (classes.astype(np.int64) + 1).astype(np.min_scalar_type(int(classes.max()) + 1))

    def described(self) -> str:
        """Returns what is left out, in words."""
        return ' and '.join(map(str, self.ignored)) or 'nothing'


class Translated(Chosen):
    """Rows of stored label maps, whose numbers become classes when they are read.

    Args:
        source: The label maps (N, H, W).
        rows: (n,) positions of the chosen rows in `source`.
        meaning: What the numbers mean.
        classes: Number of classes K.
    """

    def __init__(self, source: Rows, rows: np.ndarray, meaning: Meaning, classes: int) -> None:
        super().__init__(source, rows)
        self.meaning, self.few = meaning, classes <= VOID

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the label maps at the positions `index` among the chosen rows."""
        found = self.meaning.classes(super().__getitem__(index))
        found = np.where(found == IGNORE, VOID, found) if self.few else found
        return found.astype(np.uint8) if self.meaning.binary else found


def meaning_of(intake: Intake) -> Meaning:
    """Returns what the numbers in the label maps of a training meant."""
    given = intake.options
    reduced, binary = (bool(given.get(key)) for key in ('reduce_zero_label', 'binary'))
    return Meaning(given.get('ignore_label', VOID), reduced, binary)


def check_number(where: str, count: int, meaning: Meaning | None) -> None:
    """Checks that there are not too many classes, and that none has the number that is ignored.

    Args:
        where: What holds the labels, for messages.
        count: Number of classes.
        meaning: What the numbers in label maps mean; None for a class of each sample.

    Raises:
        UserError: There are too many classes.
    """
    if meaning is not None and meaning.usual and count > VOID:
        raise UserError(
            f'{where}: expected at most {VOID} classes, because label {VOID} is ignored, found '
            f'{count}; ignore_label=N or ignore_label=none says otherwise'
        )
    if count > MOST:
        raise UserError(f'{where}: expected at most {MOST} classes, found {count}')


def trained(where: str, numbers: frozenset[int], meaning: Meaning | None) -> None:
    """Checks that the labels of the training samples are of two classes at least.

    Args:
        where: What holds the labels, for messages.
        numbers: All numbers of the training split.
        meaning: As in `check_number`.

    Raises:
        UserError: There are fewer than two, so that nothing is to be learned.
    """
    if len(numbers if meaning is None else meaning.of(numbers)) > 1:
        return
    told = f'{where}: expected training labels of 2 classes or more, found'
    # Masks are often stored as 0 and 255, so that they look black and white.
    if meaning is not None and meaning.usual and numbers == {0, VOID}:
        hint = f'in binary masks with the foreground {VOID}, say binary=true'
        raise UserError(f'{told} 0 and {VOID}, and {VOID} is ignored; {hint}')
    raise UserError(f'{told} {_listed(sorted(numbers))} alone')


def _listed(numbers: Sequence[int]) -> str:
    return ', '.join(map(str, numbers)) or 'none'
