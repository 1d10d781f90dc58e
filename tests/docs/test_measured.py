"""Numbers of the pages that come from committed records but compare no two methods."""

import numpy as np
import pytest
from sentences import ROOT, compared, scores, text_of

from benchmark.records import store


def correlation(data):
    """The correlation of the mean's deviations at the same seed, averaged over pairs of rows."""
    known, _ = compared(data)
    rows = np.array([scores(known, label, 'mean') for label in known.groups])
    rows = rows[rows.std(1, ddof=1) <= 2]
    return np.corrcoef(rows)[np.triu_indices(len(rows), 1)].mean()


def test_scores_of_the_same_seed_are_correlated_as_little_as_the_page_says():
    faces, rooms = correlation('synth_faces'), correlation('synth_rooms')
    words = f'have a correlation of {faces:.2f} (faces) and {rooms:.2f} (rooms), averaged over'
    assert words in text_of('docs/statistics.md')


def validation(label, options):
    """The mean over subsets on the validation split, one per seed, of runs in rooms."""
    found = store.scan(ROOT / 'results/extra/runs/synth_rooms').complete
    return 100 * np.array([
        np.mean([metrics['mIoU'] for metrics in record['scores']['val'].values()])
        for record in found.values()
        if record['method']['label'] == label
        and {'ema': None, **record['protocol']}.items() >= options.items()
    ])  # fmt: skip


@pytest.mark.parametrize(
    ('label', 'options'),
    [
        ('modality_dropout', {'loss': 'ce_dice', 'ema': None}),
        ('modality_dropout', {'loss': 'ce', 'ema': None}),
        ('hemis', {'loss': 'ce_dice', 'ema': None}),
        ('hemis', {'loss': 'ce', 'ema': None}),
        ('modality_dropout', {'loss': 'ce_dice', 'ema': 0.98}),
    ],
)
def test_the_protocol_page_has_the_numbers_by_which_the_defaults_were_chosen(label, options):
    found = validation(label, options)
    assert len(found) == 3
    assert f'{found.mean():.2f} ± {found.std(ddof=1):.2f}' in text_of('docs/protocol.md')
