"""Sentences of the page of results that describe the committed rows without a test between them."""

import numpy as np
import pytest
from sentences import compared, comparisons, scores, text_of

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


@pytest.mark.parametrize(
    ('data', 'low', 'high', 'below'),
    [
        (
            'synth_faces', 90, 94,
            {'late_fusion': 88.8, 'early_fusion': 87.6, 'm3ae': 87.3, 'gmd': 85.4,
             'complete': 37.9},
        ),
        ('synth_rooms', 76, 81, {'gmd': 73.4, 'm3ae': 67.8, 'complete': 62.9}),
    ],
)  # fmt: skip
def test_how_much_of_the_gap_rows_close(data, low, high, below):
    closed = gaps_closed(data)
    del closed['customized']  # as many networks as subsets
    assert {label: round(closed.pop(label), 1) for label in below} == below
    assert low - 0.5 <= min(closed.values()) <= max(closed.values()) < high + 0.5
    assert f'all unified networks close {low} to {high} % of the gap' in RESULTS
    told = RESULTS.partition(f'close {low} to {high} %')[2].partition('.  ')[0]
    assert all(f'`{label}`' in told and f'({part}' in told for label, part in below.items())


def test_depth_leads_on_faces_and_all_sensors_together_are_better_than_one():
    known, _ = compared('synth_faces')
    for label in known.groups:
        rgb, depth, ir, whole = (
            scores(known, label, s).mean() for s in ('rgb', 'depth', 'ir', 'rgb+depth+ir')
        )
        assert whole < depth < min(rgb, ir), label
    assert 'Depth is the strongest single sensor in every row of this table' in RESULTS


def test_the_product_is_the_poorest_operator_with_zeros_and_has_the_lowest_mean_without():
    known, _ = compared('fusion')
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
        for rate, known in comparisons().rates().items()
    }
    upto = [apart[rate] for rate in sorted(apart, key=float)][:-1]
    assert [*apart] == ['0', '0.1', '0.3', '0.5', '0.7', '0.9']
    assert upto == sorted(upto, reverse=True)
    assert (
        f'it is {upto[0]:.1f} points higher without gaps and {-upto[-1]:.1f} points lower at 70 %'
        in RESULTS
    )
