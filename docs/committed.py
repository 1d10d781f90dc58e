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

RATES = {'rates_faces': 'synth_faces', 'rates_rooms': 'synth_rooms'}
"""Page of RedCore's rates -> the data set. Each rate has a protocol of its own."""


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


def rates(dataset: str) -> dict[str, runs.Runs]:
    """Returns the runs of RedCore's rates on a data set: missing rate in training -> its runs."""
    found = {}
    for known in gathered('rates', dataset):
        rate = known.records[0]['gaps']['rates']
        (one,) = set(rate.values())
        found[f'{one:g}'] = known
    return dict(sorted(found.items(), key=lambda item: float(item[0])))
