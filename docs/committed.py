"""The committed runs that the page of results compares."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmark.records import store
from benchmark.report import runs

RESULTS = Path(__file__).resolve().parent.parent / 'results'

REFERENCE = ('synth_faces', 'synth_rooms')
"""The data sets of the reference, each with a page of its own name."""

PLACES = {
    'ablation_faces': ('ablation', 'synth_faces'),
    'ablation_rooms': ('ablation', 'synth_rooms'),
    'fusion_faces': ('fusion', 'synth_faces'),
    'gpu_faces': ('gpu', 'synth_faces'),
    'gpu_rooms': ('gpu', 'synth_rooms'),
    'variants_faces': ('variants', 'synth_faces'),
    'variants_rooms': ('variants', 'synth_rooms'),
    'untuned_faces': ('reference+variants', 'synth_faces'),
    'untuned_rooms': ('reference+variants', 'synth_rooms'),
    'eight_faces': ('eight', 'synth_faces'),
    'eight_rooms': ('eight', 'synth_rooms'),
    'eight_gaps': ('eight-gaps', 'synth_rooms'),
}
"""Page -> the folder in `results/`, or two of them, and the data set of its rows.

All rows of a page have one protocol.
"""

RATES = {
    'rates_faces': ('rates', 'synth_faces'),
    'rates_rooms': ('rates', 'synth_rooms'),
    'unequal_faces': ('unequal', 'synth_faces'),
    'unequal_rooms': ('unequal', 'synth_rooms'),
}
"""Page of missing rates -> as of `PLACES`. Each rate has a protocol of its own."""


def gathered(folder: str, dataset: str, seeds: Collection[int] = ()) -> list[runs.Runs]:
    """Returns the committed runs of a data set in folders of results, one for each protocol.

    Runs that two of the folders hold count once.

    Args:
        folder: Names of the folders, joined by +.
        dataset: The data set.
        seeds: The seeds that count; by default all.
    """
    once: dict[str, tuple[Path, dict]] = {}
    for name in folder.split('+'):
        for path, record in store.scan(RESULTS / name / 'runs' / dataset).complete.items():
            once.setdefault(record['identity'], (path, record))
    found = {p: r for p, r in once.values() if not seeds or r['seed'] in seeds}
    files = {record['identity']: path.with_name(store.OUTCOMES) for path, record in found.items()}
    return runs.gather(
        found.values(), lambda record: store.read_outcomes(files[record['identity']]), []
    )


def rows_of(name: str, seeds: Collection[int] = ()) -> runs.Runs:
    """Returns the runs of a page, whose name is that of a data set for its reference.

    Args:
        name: The name of the page.
        seeds: The seeds that count; by default all.
    """
    (known,) = gathered(*PLACES.get(name, ('reference', name)), seeds)
    return known


def rates(name: str) -> dict[str, runs.Runs]:
    """Returns the runs of a page of missing rates: the percentages -> the runs.

    Args:
        name: The name of the page.

    Returns:
        The runs, the lowest rate first; the percentages are one for each modality in the order of
        the data set, such as '20/50/80', or a single one where all are equal.
    """
    found = {}
    for known in gathered(*RATES[name]):
        record = known.records[0]
        each = tuple(record['gaps']['rates'][m] for m in record['dataset']['modalities'])
        found[each] = known
    return {
        '/'.join(f'{100 * rate:.0f}' for rate in (each if len({*each}) > 1 else each[:1])): known
        for each, known in sorted(found.items())
    }
