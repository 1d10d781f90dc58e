"""A page of pictures of samples alone, as `benchmark/show.py` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.files import writing
from benchmark.records.gallery import Gallery
from benchmark.records.schema import Record, test_scores
from benchmark.report import escaping
from benchmark.report.page import document
from benchmark.report.page.gallery import Kept, part


def write(path: Path, records: Sequence[Record], galleries: Sequence[Gallery]) -> None:
    """Writes the page.

    Args:
        path: The file.
        records: The runs, in the order of the columns.
        galleries: The pictures of each.

    Raises:
        UserError: It cannot be written.
    """
    data = records[0]['dataset']
    labels = [escaping.terminal(record['method']['label']) for record in records]
    names = [
        f'{label} ({r["protocol_id"]}, seed {r["seed"]})' if labels.count(label) > 1 else label
        for label, r in zip(labels, records, strict=True)
    ]
    columns = zip(names, range(len(names)), records, galleries, strict=True)
    kept = [Kept(name, k, r['seed'], gallery) for name, k, r, gallery in columns]
    text = document.template('show.html.j2').render(
        name=escaping.terminal(data['name']),
        part=part('samples', data, kept, all=True),
        runs=[_told(name, record) for name, record in zip(names, records, strict=True)],
        style=document.style(),
    )
    with writing(path) as file:
        file.write(text.encode())


def _told(name: str, record: Record) -> str:
    """Tells in one line which run a column is of, and its scores."""
    data = record['dataset']
    scores = test_scores(record)
    mean = 100 * sum(scores.values()) / max(1, len(scores))
    return escaping.terminal(
        f'{name}: protocol {record["protocol_id"]}, seed {record["seed"]}, '
        f'mean {data["metric"]} over the subsets {mean:.2f} %'
    )
