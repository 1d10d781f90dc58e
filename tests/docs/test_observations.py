"""Sentences of the page of results that describe the committed rows without a test between them."""

from functools import cache

import numpy as np
import pytest
import scipy.stats
from sentences import compared, scores, text_of

from benchmark.report.comparison import LEVEL, holm
from docs.committed import gathered, rates

RESULTS = text_of('docs/results.md')


def gaps_closed(data):
    """Row -> how much of the gap between chance and ceiling it closes, mean of subsets in %."""
    known, _ = compared(data)
    (about, *_) = known.records
    chance, ceiling = about['dataset']['chance'], about['dataset']['ceiling']
    return {
        label: 100
        * np.mean(
            [
                (scores(known, label, s).mean() / 100 - chance) / (ceiling[s] - chance)
                for s in known.subsets
            ]
        )
        for label in known.groups
    }


NOT_UNIFIED = {'customized', 'majority', 'mean_imputation', 'logistic'}
"""As many networks as subsets, or none."""


@pytest.mark.parametrize(
    ('data', 'low', 'high', 'below'),
    [
        (
            'synth_faces', 90, 93,
            {'passion': 88.9, 'early_fusion': 88.4, 'late_fusion': 88.4, 'm3ae': 86.1, 'gmd': 84.9,
             'complete': 42.2, 'contrastive': 20.1, 'masked': 11.1, 'missing_prompts': 0.0},
        ),
        (
            'synth_rooms', 76, 80,
            {'late_fusion': 75.0, 'early_fusion': 74.8, 'gmd': 73.4, 'm3ae': 68.2,
             'complete': 61.8, 'masked': 53.8, 'contrastive': 43.6},
        ),
    ],
)  # fmt: skip
def test_how_much_of_the_gap_rows_close(data, low, high, below):
    closed = {k: share for k, share in gaps_closed(data).items() if k not in NOT_UNIFIED}
    assert {label: round(closed.pop(label), 1) for label in below} == below
    assert low - 0.5 <= min(closed.values()) <= max(closed.values()) < high + 0.5
    assert f'all unified networks close {low} to {high} % of the gap' in RESULTS
    told = RESULTS.partition(f'close {low} to {high} %')[2].partition('. ')[0]
    assert all(f'`{label}`' in told and f'({part}' in told for label, part in below.items())


NEAR_CHANCE = ('missing_prompts', 'masked', 'contrastive')


def test_the_linear_probes_are_near_chance_in_nine_of_ten_runs():
    known, _ = compared('synth_faces')
    masked, contrastive = (scores(known, label, 'mean') for label in NEAR_CHANCE[1:])
    low, *others = sorted(contrastive)
    assert min(*masked, *others) > 40
    told = (
        f'one of the five seeds has {low:.2f} % and the other four have {others[0]:.2f} to '
        f'{others[-1]:.2f} %.'
    )
    assert told in RESULTS


def test_depth_leads_on_faces_and_all_sensors_together_are_better_than_one():
    known, _ = compared('synth_faces')
    best = {}
    for label in known.groups.keys() - {'majority', *NEAR_CHANCE}:
        alone = {s: scores(known, label, s).mean() for s in ('rgb', 'depth', 'ir')}
        best[label] = min(alone, key=alone.get)
        assert scores(known, label, 'rgb+depth+ir').mean() < alone[best[label]], label
    regressions = {'logistic', 'mean_imputation'}
    assert {label for label, sensor in best.items() if sensor != 'depth'} == regressions
    assert {best[label] for label in regressions} == {'rgb'}
    told = (
        'Depth is the strongest single sensor of every network that is not near chance (as '
        '`missing_prompts`, `masked` and `contrastive` are)'
    )
    assert told in RESULTS
    assert 'For the two regressions rgb is the strongest.' in RESULTS


def test_the_product_is_the_poorest_operator_with_zeros_and_has_the_lowest_mean_without():
    known, _ = compared('fusion_faces')
    means = {label: scores(known, label, 'mean').mean() for label in known.groups}
    zeros = {label: mean for label, mean in means.items() if 'absent=zero' in label}
    poorest, lowest = max(zeros, key=zeros.get), min(means, key=means.get)
    assert (poorest, lowest) == ('fusion:absent=zero,fusion=product', 'fusion:fusion=product')
    assert (
        f'has the poorest mean of the {len(zeros)} rows with zeros ({zeros[poorest]:.2f}), and the '
        f'lowest mean of all ({means[lowest]:.2f})'
    ) in RESULTS


def test_redcore_lies_lower_relative_to_dropout_the_more_is_missing():
    apart = {
        rate: np.subtract(
            *(scores(known, row, 'mean').mean() for row in ('redcore', 'modality_dropout'))
        )
        for rate, known in rates('rates_faces').items()
    }
    assert [*apart] == ['0', '10', '30', '50', '70', '90']
    *upto, at_70, _ = apart.values()
    assert upto == sorted(upto, reverse=True)
    known = rates('rates_faces')['70']
    spread = [
        f'{min(means):.1f} to {max(means):.1f} of `{row}`'
        for row in ('redcore', 'redcore:rate=0', 'modality_dropout')
        for means in [scores(known, row, 'mean')]
    ]
    assert (
        f'it is {upto[0]:.1f} points higher without gaps and {-upto[-1]:.1f} points lower at 50 %. '
        f'At 70 % it is {at_70:.1f} points higher, and the seeds differ: {", ".join(spread)}.'
    ) in RESULTS


def test_every_seed_of_redcore_has_a_higher_mean_than_every_one_of_dropout_in_rooms():
    apart = []
    for known in rates('rates_rooms').values():
        redcore, equal, dropout = (
            scores(known, row, 'mean') for row in ('redcore', 'redcore:rate=0', 'modality_dropout')
        )
        assert len(redcore) == len(equal) == len(dropout) == 3
        assert min(*redcore, *equal) > max(dropout)
        apart.append(redcore.mean() - dropout.mean())
    assert (
        'In rooms every seed of both rows of `redcore` has a higher mean than every seed of '
        '`modality_dropout`, at each of the six rates. The difference between `redcore` and '
        '`modality_dropout` is {:.1f} points without gaps, {:.1f} at 10 %, {:.1f} at 30 %, {:.1f} '
        'at 50 %, {:.1f} at 70 % and {:.1f} at 90 %.'
    ).format(*apart) in RESULTS


def test_at_90_percent_redcore_collapses_with_every_seed_and_dropout_with_none():
    known = rates('rates_faces')['90']
    collapsed = {
        row: [bool(known.records[k]['collapsed']) for k in known.groups[row]]
        for row in ('redcore', 'redcore:rate=0', 'modality_dropout')
    }
    assert collapsed == {
        'redcore': [True] * 3, 'redcore:rate=0': [True] * 3, 'modality_dropout': [False] * 3,
    }  # fmt: skip
    assert (
        'On faces at 90 % both rows of `redcore` predict one class for all, or nearly all, samples '
        'of some subsets with every seed, and `modality_dropout` with none.'
    ) in RESULTS


def test_the_smallest_proven_difference_is_that_of_the_records():
    told = []
    for data, where in (('synth_faces', 'on faces'), ('synth_rooms', 'in rooms')):
        family = {row: found for (row, *_), found in compared(data)[1][0].items()}
        far = {row: (100 * abs(c.difference), p < LEVEL) for row, (c, p) in family.items()}
        least = min(points for points, proven in far.values() if proven)
        most = max(points for row, (points, proven) in far.items()
                   if not proven and row != 'contrastive')  # fmt: skip
        told.append((f'{least:.2f} points {where}', f'up to {most:.2f} points {where}'))
    (least_faces, most_faces), (least_rooms, most_rooms) = told
    words = (
        f'the smallest proven difference of two means is {least_faces} and {least_rooms}; others '
        f'of {most_faces} and {most_rooms} are not proven'
    )
    assert words in RESULTS


USUAL, AVERAGED, LONGER = 'usual', '`ema=0.98`', 'twice the epochs'


@cache
def settings_of(data):
    """Setting -> row -> its means over subsets in percent, of the grid `variance`."""
    found = {}
    for known in gathered('variance', data):
        protocol = known.records[0]['protocol']
        longer = protocol['epochs'] == {'synth_faces': 20, 'synth_rooms': 30}[data]
        setting = AVERAGED if protocol.get('ema') else LONGER if longer else USUAL
        found[setting] = {row: scores(known, row, 'mean') for row in ('modality_dropout', 'hemis')}
    return {setting: found[setting] for setting in (USUAL, AVERAGED, LONGER)}


@pytest.mark.parametrize(
    ('data', 'name'), [('synth_faces', 'faces (ACER ↓)'), ('synth_rooms', 'rooms (mIoU ↑)')]
)
def test_the_table_of_averaged_weights_and_longer_training_is_that_of_the_records(data, name):
    found = settings_of(data)
    for row in found[USUAL]:
        cells = [
            f'{means[row].mean():.2f} ± {means[row].std(ddof=1):.2f}' for means in found.values()
        ]
        assert f'| {name} | `{row}` | {" | ".join(cells)} |' in RESULTS
    known, _ = compared(data)
    for row, means in found[USUAL].items():  # the usual ones are the reference's
        assert means.tolist() == scores(known, row, 'mean').tolist()


def test_neither_averaged_weights_nor_longer_training_is_proven_to_change_anything():
    ratios, changes, p_ratios, p_changes = [], [], [], []
    for setting in (AVERAGED, LONGER):
        for data in ('synth_faces', 'synth_rooms'):
            usual, other = settings_of(data)[USUAL], settings_of(data)[setting]
            spread = [sum(x.var(ddof=1) for x in means.values()) for means in (other, usual)]
            ratios.append(spread[0] / spread[1])
            law = scipy.stats.f(8, 8)
            p_ratios.append(2 * min(law.cdf(ratios[-1]), law.sf(ratios[-1])))
            for row in usual:
                apart = other[row] - usual[row]
                p_changes.append(scipy.stats.ttest_1samp(apart, 0).pvalue)
                if setting == AVERAGED:
                    changes += list(-apart if data == 'synth_faces' else apart)
    least = [min(holm(found)) for found in (p_ratios, p_changes)]
    assert min(least) >= LEVEL
    assert (
        'times the usual ones with averaged weights, and {2:.2f} and {3:.2f} times'.format(*ratios)
        in RESULTS
    )
    assert '{:.2f} (faces) and {:.2f} (rooms) times'.format(*ratios[:2]) in RESULTS
    assert f'(four F-tests, the smallest corrected p is {least[0]:.3f})' in RESULTS
    assert f'of the same seeds, the smallest corrected p is {least[1]:.3f})' in RESULTS
    assert len(changes) == 20
    assert (
        f'averaged weights {sum(x > 0 for x in changes)} of 20 trainings score higher in mIoU or '
        f'lower in ACER than without, by {np.mean(changes):.2f} points on average'
    ) in RESULTS
    assert f'an average of {np.mean(changes):.2f} points' in RESULTS
