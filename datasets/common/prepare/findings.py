"""The result of verifying a data root: problems, sorted by their kind, and remarks."""

from __future__ import annotations

LIMIT = 20
"""How many problems of one kind are listed; the others are only counted."""


class Findings:
    """Collects problems and remarks. A problem that is added twice counts once.

    Attributes:
        kinds: Kind of problem -> the problems, in the order in which they were added.
        notes: Remarks, which are no problems.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, None]] = {}
        self.notes: list[str] = []

    def add(self, kind: str, text: str) -> None:
        """Adds a problem, described by one line, to its kind (e.g. 'missing files')."""
        self.kinds.setdefault(kind, {})[text] = None

    def note(self, text: str) -> None:
        """Adds a remark, which is no problem."""
        self.notes.append(text)

    @property
    def count(self) -> int:
        """Number of problems of all kinds."""
        return sum(map(len, self.kinds.values()))

    def lines(self) -> list[str]:
        """Returns the report: remarks, then the number and the first problems of each kind."""
        told = [f'note: {text}' for text in self.notes]
        for kind, texts in self.kinds.items():
            told.append(f'{kind} ({len(texts)}):')
            told += [f'  {text}' for text in list(texts)[:LIMIT]]
            if len(texts) > LIMIT:
                told.append(f'  ... and {len(texts) - LIMIT} more')
        return told
