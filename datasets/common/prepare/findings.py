"""What is wrong with a data root: every problem by its kind, and notes that are none."""

from __future__ import annotations

LIMIT = 20
"""How many problems of one kind are told in full."""


class Findings:
    """Collects problems; the same one said twice counts once."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, None]] = {}
        self.notes: list[str] = []

    def add(self, kind: str, text: str) -> None:
        """Takes a problem of a kind ('missing files', ...), told in one line."""
        self.kinds.setdefault(kind, {})[text] = None

    def note(self, text: str) -> None:
        """Takes a remark that makes nothing wrong."""
        self.notes.append(text)

    @property
    def count(self) -> int:
        """Number of problems of all kinds."""
        return sum(map(len, self.kinds.values()))

    def lines(self) -> list[str]:
        """Returns the report: notes, then each kind with its number and its first problems."""
        told = [f'note: {text}' for text in self.notes]
        for kind, texts in self.kinds.items():
            told.append(f'{kind} ({len(texts)}):')
            told += [f'  {text}' for text in list(texts)[:LIMIT]]
            if len(texts) > LIMIT:
                told.append(f'  ... and {len(texts) - LIMIT} more')
        return told
