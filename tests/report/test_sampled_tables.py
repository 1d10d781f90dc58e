"""Tables and page of runs that were tested on a sample or a list of the subsets."""

import csv
import io
import re

import numpy as np
import pytest
from made_records import make_record, save

from benchmark import tested
from benchmark.errors import UserError
from benchmark.report import coverage, escaping, sampling, writer
from benchmark.report.page import document
from benchmark.report.render import csv as to_csv
from benchmark.report.render import latex, markdown, terminal
from benchmark.report.selection import Selection

MANY = [f's{k:02}' for k in range(20)]
SAMPLED = 'sampled:75'
SAMPLES = 80


def add(runs, label, seed, which, dataset='many', extra=()):
    """Writes a run with fewer errors on larger subsets, and returns its record."""
    rng = np.random.default_rng([seed, *label.encode()])
    target = np.arange(SAMPLES) % 2
    outcomes = {'target': target.astype(np.int16)}
    for subset in [*tested.tested(which, MANY), *extra]:
        wrong = rng.random(SAMPLES) < 0.5 - 0.02 * (subset.count('+') + 1)
        outcomes[f'pred/{subset}'] = np.where(wrong, 1 - target, target).astype(np.int16)
    record = make_record(
        label,
        seed,
        outcomes,
        dataset={'name': dataset, 'modalities': MANY, 'chance': 0.5},
        protocol={'subsets': which},
        gaps={'rates': dict.fromkeys(MANY, 0.0)},
    )
    save(runs, record, outcomes)
    return record


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sampled')
    for seed in range(3):
        add(folder / 'runs', 'hemis', seed, SAMPLED)
        add(folder / 'runs', 'rfnet', seed, SAMPLED)
    return folder


@pytest.fixture(scope='module')
def made(results):
    return writer.write_tables(results, 'many')


@pytest.fixture(scope='module')
def page(results):
    return document.dataset('many', results / 'runs/many', 'd0')


def scores_of(runs, label):
    """(seeds, subsets) scores of a row."""
    return runs.values[runs.groups[label], : len(runs.subsets)]


def test_the_mean_is_the_estimate_for_all_subsets(made):
    runs = made.blocks[0].first
    means = runs.values[:, list(runs.columns).index('mean')]
    for i, record in enumerate(runs.records):
        scores = {s: found['ACER'] for s, found in record['scores']['test'].items()}
        assert means[i] == pytest.approx(tested.mean(scores, 20, SAMPLED))
        assert abs(means[i] - np.mean(list(scores.values()))) > 0.005
    assert writer.brief(runs.records[0]).startswith(f'ACER {100 * means[0]:.2f} % estimated mean, ')


def test_every_format_says_what_was_sampled(made, page):
    runs = made.blocks[0].first
    half = [coverage.reach(runs, runs.groups[label]) for label in ('hemis', 'rfnet')]
    sizes = np.array([s.count('+') + 1 for s in runs.subsets])
    by_hand = sampling.reach(scores_of(runs, 'hemis').mean(0), sizes, 20)
    assert half[0] == pytest.approx(by_hand)
    span = ' to '.join(f'±{100 * value:.2f}' for value in sorted(half))
    told = 'mean is an estimate of the mean over all 1,048,575 subsets from a sample of 75'
    interval = f'95 % interval of the mean is {span} points'
    worst = 'worst is the score of its worst tested subset'
    for sentence in (told, interval, worst):
        assert sentence in markdown(made)
        assert sentence in page['blocks'][0]['caption']
        assert escaping.tex(sentence) in latex(made)
    text = terminal(made)
    assert f'{told} ({span} points by the choice of subsets, 95 %)' in text
    assert max(map(len, text.splitlines()[:5])) < 200
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert {row['subsets_tested'] for row in rows} == {'75'}
    assert {row['subsets_in_all'] for row in rows} == {'1048575'}
    assert float(rows[0]['mean_reach_of_subsets']) == pytest.approx(100 * half[0], rel=1e-4)


def test_bootstrap_and_marks_are_of_the_estimate(made):
    standings = made.blocks[0].first.standings
    assert not standings.lacking
    found = standings.compare('hemis', 'rfnet', 'mean')
    runs = made.blocks[0].first
    means = runs.values[:, list(runs.columns).index('mean')]
    both = [means[runs.groups[label]].mean() for label in ('hemis', 'rfnet')]
    assert found.difference == pytest.approx(both[0] - both[1])
    assert found.low < found.difference < found.high


def test_the_page_has_the_sample_and_says_what_needs_all_subsets(page):
    (block,) = page['blocks']
    found = {section['title']: section for section in block['sections']}
    told = 'This needs the scores of all 1,048,575 subsets, of which 75 were tested.'
    for title in ('What each modality is worth', 'What if a sensor fails?'):
        assert [part['text'] for part in found[title]['parts']] == [told]
    assert len(found['Methods and subsets']['parts'][0]['cols']) == 75 + 2 + 20
    assert not [s for s in block['sections'] if 'cannot be made' in str(s['parts'])]
    assert len(document.render([page])) < 4_000_000


def test_what_a_sample_cannot_tell_is_refused_in_one_line(results):
    with pytest.raises(writer.Lacking, match='--where s00=off: .*of a sample too few subsets'):
        writer.write_tables(results, 'many', selection=Selection(where='s00=off'))
    fail = ','.join([*(f'{name}=0.1' for name in MANY[:10]), *(f'{name}=1' for name in MANY[10:])])
    with pytest.raises(
        writer.Lacking, match=r'all 1,023 subsets that can occur, of which [\d,]+ were'
    ):
        writer.write_tables(results, 'many', selection=Selection(fail=fail))
    with pytest.raises(UserError, match='at most 12 modalities that may fail, found 20'):
        writer.write_tables(results, 'many', selection=Selection(fail='0.1'))


def test_an_expected_score_that_needs_few_subsets_is_told(results):
    made = writer.write_tables(results, 'many', selection=Selection(fail='s03=0.25'))
    runs = made.blocks[0].first
    whole, less = '+'.join(MANY), '+'.join(m for m in MANY if m != 's03')
    at = [list(runs.columns).index(key) for key in (whole, less, 'expected')]
    full, lacking, expected = runs.values[:, at].T
    np.testing.assert_allclose(expected, 0.75 * full + 0.25 * lacking)


def test_another_choice_of_subsets_makes_a_block_of_its_own_and_a_list_says_so(tmp_path):
    pair = 's00+s01'
    which = tested.spelled('list:1,3,fffff', MANY)
    add(tmp_path / 'runs', 'hemis', 0, SAMPLED)
    add(tmp_path / 'runs', 'hemis', 1, which)
    made = writer.write_tables(tmp_path, 'many')
    by_count = {len(block.first.subsets): block.first for block in made.blocks}
    assert set(by_count) == {3, 75}
    runs = by_count[3]
    assert runs.subsets == ['s00', pair, '+'.join(MANY)]
    mean = runs.values[0, list(runs.columns).index('mean')]
    assert mean == pytest.approx(scores_of(runs, 'hemis').mean())
    text = markdown(made)
    assert 'mean is over the 3 listed of all 1,048,575 subsets' in text
    assert len(re.findall(r'^## .*many', text, re.M)) >= 2


def test_the_only_listed_subset_is_told_as_one(tmp_path):
    add(tmp_path / 'runs', 'hemis', 0, tested.spelled('list:fffff', MANY))
    text = markdown(writer.write_tables(tmp_path, 'many'))
    assert 'mean is the score on the one that is listed of all 1,048,575 subsets' in text


def test_other_code_counts_on_the_subsets_of_the_protocol(tmp_path):
    add(tmp_path / 'runs', 'hemis', 0, SAMPLED)
    target = np.arange(SAMPLES) % 2
    outcomes = {'target': target.astype(np.int16)}
    extra = 's00+s01+s02+s03+s19'
    for subset in [*tested.tested(SAMPLED, MANY), extra]:
        outcomes[f'pred/{subset}'] = target.astype(np.int16)
    record = make_record(
        'other (external)',
        0,
        outcomes,
        method={'source': 'external', 'options': {}},
        dataset={'name': 'many', 'modalities': MANY, 'chance': 0.5},
        gaps={'rates': {}},
    )
    record['protocol'] = {}
    from benchmark.records import store
    from benchmark.records.identity import protocol_id

    record['protocol_id'] = protocol_id({}, record['dataset']['fingerprint'])
    record['identity'] = store.identity(record)
    save(tmp_path / 'runs', record, outcomes)
    (block,) = writer.write_tables(tmp_path, 'many').blocks
    assert extra not in block.first.subsets
    assert len(block.first.subsets) == 75
    assert block.first.external == ['other (external)']
