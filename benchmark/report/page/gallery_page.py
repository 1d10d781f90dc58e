"""A page of pictures of samples alone, as `benchmark/show.py` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark import tested
from benchmark.files import writing
from benchmark.records.gallery import Gallery
from benchmark.records.schema import Record, test_scores
from benchmark.records.units import shown
from benchmark.report import escaping
from benchmark.report.page import document, gallery_png
from benchmark.report.page.gallery import Kept, part

FILE = 'gallery.html'


def write(
    folder: Path, records: Sequence[Record], galleries: Sequence[Gallery], png: bool = False
) -> list[Path]:
    """Writes the page and, where wanted, a PNG file for each sample.

    Args:
        folder: The folder.
        records: The runs, in the order of the columns.
        galleries: The pictures of each.
        png: Whether PNG files are written.

    Returns:
        The files.

    Raises:
        UserError: A file cannot be written.
    """
    data = records[0]['dataset']
    labels = [escaping.terminal(record['method']['label']) for record in records]
    names = [
        f'{label} ({r["protocol_id"]}, seed {r["seed"]})' if labels.count(label) > 1 else label
        for label, r in zip(labels, records, strict=True)
    ]
    columns = zip(names, range(len(names)), records, galleries, strict=True)
    kept = [Kept(name, k, r['seed'], gallery) for name, k, r, gallery in columns]
    shown = part('samples', data, kept, all=True)
    text = document.template('show.html.j2').render(
        name=escaping.terminal(data['name']),
        part=shown,
        runs=[_told(name, record) for name, record in zip(names, records, strict=True)],
        style=document.style(),
    )
    with writing(folder / FILE) as file:
        file.write(text.encode())
    return [folder / FILE, *(gallery_png.write(folder, shown) if png else [])]


def _told(name: str, record: Record) -> str:
    """Tells in one line which run a column is of, and its scores."""
    data = record['dataset']
    scores = test_scores(record)
    which, count = record['protocol'].get('subsets', ''), len(data['modalities'])
    mean = tested.mean(scores, count, which) if scores else 0.0
    kind = 'estimated mean' if tested.is_sample(which) else 'mean'
    return escaping.terminal(
        f'{name}: protocol {record["protocol_id"]}, seed {record["seed"]}, '
        f'{kind} {data["metric"]} over the subsets {shown(mean, data["metric"])}'
    )
