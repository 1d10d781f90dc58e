"""The data of the page: equal to the tables, complete, and harmless."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
from made_pages import HOSTILE, add, add_rooms, made, outcomes_of
from made_records import ID, make_failure, make_record, save
from sklearn.metrics import brier_score_loss, confusion_matrix

from benchmark import running, tables
from benchmark.files import ROOT
from benchmark.missing import subset_ids
from benchmark.records import store
from benchmark.report.page import bundle, command, document

NAMES = ['rgb', 'depth', 'ir']


@pytest.fixture(autouse=True, scope='module')
def small():
    """The charts' code is not wanted here, and joining it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, 'javascript', lambda: '')
        yield


def fill(folder):
    """Writes runs of two methods with three seeds and of one with two."""
    for label, seeds in (('one', 3), ('other', 3), ('few', 2)):
        for seed in range(seeds):
            add(folder / 'runs', label, seed, samples=200, log=label == 'one')
    return folder


@pytest.fixture
def results(tmp_path):
    """A results folder that may be changed."""
    for label in ('one', 'other'):
        add(tmp_path / 'runs', label, 0, samples=20)
    return tmp_path


@pytest.fixture(scope='module')
def known(tmp_path_factory):
    """The lines of a table by method, and text and data of the page of the same records."""
    folder = fill(tmp_path_factory.mktemp('known'))
    assert tables.main([str(folder)]) == 0
    lines = {x['method']: x for x in csv.DictReader((folder / 'tables' / 'faces.csv').open())}
    return lines, *made(folder)


def part(data, end):
    (found,) = [value for key, value in data['parts'].items() if key.endswith(end)]
    return found


def rows_of(figure):
    return [dict(zip(figure['fields'], row, strict=True)) for row in figure['rows']]


def test_scores_are_those_of_the_csv_file(known):
    lines, text, data = [*known[0].values()], *known[1:]
    heat = part(data, '-heat')
    assert heat['rows'] == [line['method'] for line in lines]
    keys = [*subset_ids(NAMES), 'mean', 'worst', 'missing_0', 'missing_1', 'missing_2']
    for line, row in zip(lines, heat['layers']['0'], strict=True):
        assert row == pytest.approx([float(line[key]) for key in keys], abs=1e-4)
        for key in keys:
            assert f'{float(line[key]):.2f}' in text
    for row in rows_of(part(data, '-lines')):
        line = lines[row['m']]
        assert row['mean'] == pytest.approx(float(line[f'missing_{row["k"]}']), abs=1e-3)
        assert row['std'] == pytest.approx(float(line[f'missing_{row["k"]}_std']), abs=1e-3)


def test_intervals_and_ranks_are_those_of_the_tables(known):
    lines, text, data = known
    # Two of the three methods have three seeds.
    assert text.count('class="interval"') == 2 * 12
    ranks = part(data, '-rank')
    names = next(iter(data['blocks'].values()))['methods']
    assert len(ranks['rows']) == 2
    for row in rows_of(ranks):
        line = lines[names[row['m']]]
        assert (row['low'], row['high']) == (int(line['rank_low']), int(line['rank_high']))


def test_the_gap_closed_is_that_of_the_tables(tmp_path):
    ceiling = dict(zip(subset_ids(NAMES), np.linspace(0.01, 0.1, 7).tolist(), strict=True))
    for seed in range(2):
        add(tmp_path / 'runs', 'm', seed, ceiling=ceiling)
    tables.main([str(tmp_path)])
    markdown = (tmp_path / 'tables' / 'faces.md').read_text().splitlines()
    header, _, row = [line.split(' | ') for line in markdown if line.startswith('| ')][:3]
    (closed,) = part(made(tmp_path)[1], '-heat')['layers']['1']
    assert f'{closed[7]:.1f}' == row[header.index('gap closed %')]
    assert closed[8] is None


def test_shapley_values_add_up_and_interactions_are_those_of_two(known):
    _, _, data = known
    values = rows_of(part(data, '-shapley'))
    heat, pairs = part(data, '-heat')['layers']['0'], part(data, '-pairs')
    assert pairs['cols'] == ['rgb × depth', 'rgb × ir', 'depth × ir']
    for m, row in enumerate(heat):
        own = [v['value'] for v in values if v['m'] == m]
        assert sum(own) == pytest.approx(50 - row[6], abs=1e-3)
        # With three modalities the index of a pair is the mean of two surpluses.
        worth = dict(
            zip(['a', 'b', 'c', 'ab', 'ac', 'bc', 'abc'], 50 - np.array(row[:7]), strict=True)
        )
        alone = worth['ab'] - worth['a'] - worth['b']
        beside = worth['abc'] - worth['ac'] - worth['bc'] + worth['c']
        assert pairs['layers'][''][m][0] == pytest.approx((alone + beside) / 2, abs=1e-3)


def test_rooms_show_classes_and_say_what_cannot_be_known(tmp_path):
    outcomes = [add_rooms(tmp_path / 'runs', 'm', seed) for seed in range(2)]
    text, data = made(tmp_path)
    assert 'They need the score without any modality, which the data set does not state.' in text
    assert 'Outcomes of segmentation hold areas and no probabilities' in text
    assert part(data, '-expected')['empty'] is None
    each = part(data, '-each')
    assert each['selects'][0]['options'] == ['wall', 'floor', 'box']
    pooled = [o['areas/rgb'].sum(0) for o in outcomes]
    iou = [100 * right / (found + truth - right) for right, found, truth in pooled]
    for k in range(3):
        assert each['layers'][str(k)][0][0] == pytest.approx(np.mean(iou, axis=0)[k], abs=1e-3)


def test_accuracy_without_any_input_is_that_of_the_most_frequent_class(tmp_path):
    names = ['a', 'b']
    outcomes = outcomes_of(names, 0, samples=50)
    outcomes['target'] = (np.arange(50) < 15).astype(np.int16)
    scores = {
        s: {'accuracy': float((outcomes[f'pred/{s}'] == outcomes['target']).mean())}
        for s in subset_ids(names)
    }
    described = {'metric': 'accuracy', 'higher_is_better': True, 'modalities': names}
    record = make_record('m', 0, outcomes, dataset=described, scores={'test': scores})
    record['gaps']['rates'] = dict.fromkeys(names, 0.0)
    save(tmp_path / 'runs', record, outcomes)
    assert part(made(tmp_path)[1], '-expected')['empty'] == 70


def test_names_may_be_broken_after_their_signs_and_hold_no_markup():
    breakable = document.template('page.html.j2').environment.filters['breakable']
    assert breakable('a_b:c=1') == 'a_<wbr>b:<wbr>c=<wbr>1'
    assert breakable('x=<b>') == 'x=<wbr>&lt;b&gt;'
    assert breakable('rfnet') == 'rfnet'


def test_the_cost_has_the_front_of_each_kind(known):
    figure = part(known[2], '-pareto')
    options = figure['selects'][0]['options']
    assert options[0] == 'parameters of a prediction / mean score'
    assert options[3] == 'FLOPs on rgb+depth+ir / score there'
    for kind in range(len(options)):
        rows = [row for row in rows_of(figure) if row['kind'] == kind]
        for row in rows:
            beaten = [
                o for o in rows
                if o['cost'] <= row['cost'] and o['score'] <= row['score'] and o is not row
                and (o['cost'], o['score']) != (row['cost'], row['score'])
            ]  # fmt: skip
            assert bool(row['front']) == (not beaten)


def test_confusions_are_scikit_learns(known):
    layer = part(known[2], '-confusion')['layers']
    both = [outcomes_of(NAMES, [seed, *b'few'], samples=200) for seed in range(2)]
    target, predicted = (
        np.concatenate([o[key] for o in both]) for key in ('target', 'pred/rgb+depth')
    )
    expected = 100 * confusion_matrix(target, predicted, normalize='true')
    np.testing.assert_allclose(layer['0/3'], expected, atol=0.01)


def test_calibration_and_risk_are_means_over_seeds(known):
    both = [outcomes_of(NAMES, [seed, *b'few'], samples=200) for seed in range(2)]
    brier, gap, risk, pooled = [], [], [], []
    for o in both:
        share = 1 / (1 + np.exp(-o['logit/rgb+depth+ir'].astype(float)))
        wrong = o['pred/rgb+depth+ir'] != o['target']
        sure = np.maximum(share, 1 - share)
        brier.append(100 * brier_score_loss(o['target'], share))
        gap.append(100 * (sure.mean() - 1 + wrong.mean()))
        risk.append([100 * wrong[np.argsort(-sure)[: int(2 * c)]].mean() for c in range(5, 101, 5)])
        pooled.append(((sure > 0.9).sum(), sure[sure > 0.9].sum(), (~wrong)[sure > 0.9].sum()))
    layers = part(known[2], '-calibrated')['layers']
    assert layers['1'][0][6] == pytest.approx(np.mean(brier), abs=2e-3)
    assert layers['3'][0][6] == pytest.approx(np.mean(gap), abs=2e-3)
    rows = [r for r in rows_of(part(known[2], '-risk')) if (r['m'], r['s']) == (0, 6)]
    assert [r['coverage'] for r in rows] == [*range(5, 101, 5)]
    np.testing.assert_allclose([r['risk'] for r in rows], np.mean(risk, axis=0), atol=0.01)
    assert layers['2'][0][6] == pytest.approx(np.mean(risk), abs=1)
    last = [r for r in rows_of(part(known[2], '-reliability')) if (r['m'], r['s']) == (0, 6)][-1]
    count, stated, right = np.sum(pooled, axis=0)
    found = last['n'], last['confidence'], last['accuracy']
    assert found == pytest.approx((count, 100 * stated / count, 100 * right / count), abs=0.01)


def test_curves_come_from_the_logs_and_what_lacks_is_said(known, tmp_path):
    rows = rows_of(part(known[2], '-curves'))
    # The methods in order: few, one, other.
    found = {(r['m'], r['kind'], r['epoch']): r['value'] for r in rows if r['seed'] == 0}
    assert found == {(1, 0, 0): 0.7, (1, 0, 1): 0.6, (1, 1, 1): 45.0}
    add(tmp_path / 'runs', 'm', 0)
    assert 'nor a file train.log with epochs' in made(tmp_path)[0]


def test_no_name_can_act(tmp_path):
    label = HOSTILE.replace('/', '|')  # a label is a folder in these tests
    described = {'classes': [HOSTILE, 'live'], 'names': [f'{HOSTILE}1', 'b'], 'name': 'x<b>"\''}
    add(tmp_path / 'runs', label, 0, **described)
    record = make_failure('m', 5, f'{HOSTILE}\x1b[2J\u202e')
    record['dataset'] |= {'name': 'x<b>"\''}
    save(tmp_path / 'runs', {**record, 'identity': store.identity(record)})
    text, data = made(tmp_path)
    assert text.count('</script>') == 3
    assert text.count('<script') == 3
    assert '<b>' not in text
    assert '<!--' not in text
    assert all(c.isprintable() or c == '\n' for c in text)
    assert part(data, '-heat')['rows'] == [label]
    assert part(data, '-confusion')['cols'][0] == HOSTILE


def test_blocks_of_one_data_set_have_titles_that_tell_their_protocols_apart(tmp_path):
    outcomes = outcomes_of(NAMES, 0)
    for protocol in ({'rates': '0.3'}, {'rates': '', 'sampler': 'complete'}, {'rates': ''}):
        save(tmp_path / 'runs', make_record('m', 0, outcomes, protocol=protocol), outcomes)
    text, _ = made(tmp_path)
    own = {
        f'faces: ACER ↓ (%), training masks {masks}, training gaps {gaps}'
        for masks, gaps in (('uniform', '0.3'), ('complete', 'none'), ('uniform', 'none'))
    }
    for tag in ('h2', 'a'):
        found = re.findall(rf'<{tag} [^>]*>(faces[^<]*)</{tag}>', text)
        assert (len(found), set(found)) == (3, own)


def test_the_heatmap_marks_networks_that_collapsed_and_the_page_explains_the_options(tmp_path):
    outcomes = outcomes_of(NAMES, 0)
    save(tmp_path / 'runs', make_record('good', 0, outcomes), outcomes)
    # All answers on rgb are one class.
    one = {k: np.ones_like(v) if k.endswith('/rgb') else v for k, v in outcomes.items()}
    save(tmp_path / 'runs', make_record('poor', 0, one), one)
    text, data = made(tmp_path)
    heat = part(data, '-heat')
    assert dict(zip(heat['rows'], heat['signs'], strict=True)) == {'good': '', 'poor': '†'}
    assert 'default (the defaults of the method)' in text


@pytest.mark.parametrize(
    ('known', 'told'),
    [
        ({}, 'states neither its ceiling nor its chance'),
        ({'chance': 0.5}, 'does not state its ceiling'),
        ({'ceiling': dict.fromkeys(subset_ids(NAMES), 0.1)}, 'does not state its chance'),
    ],
)
def test_why_the_gap_closed_is_not_shown(known, told, tmp_path):
    add(tmp_path / 'runs', 'm', 0, **{'chance': None, **known})
    assert f'The gap closed is not shown: the data set {told}.' in made(tmp_path)[0]


def test_names_that_look_alike_stay_apart(tmp_path):
    add(tmp_path / 'runs', 'm  x', 0)
    add(tmp_path / 'runs', 'm x', 0)
    (block,) = made(tmp_path)[1]['blocks'].values()
    assert block['methods'] == ['m x (1)', 'm x (2)']


def test_failed_and_unfinished_runs_are_named(tmp_path):
    add(tmp_path / 'runs', 'm', 0)
    record = make_failure('broken', 0, 'loss is NaN')
    save(tmp_path / 'runs', record)
    for seed in ('seed4', 'seed5'):
        (tmp_path / 'runs' / 'faces' / 'slow' / ID / seed).mkdir(parents=True)
    (tmp_path / 'runs' / 'faces' / 'slow' / ID / 'seed5' / 'trained.json').write_text('{}')
    text, _ = made(tmp_path)
    assert f'failed: broken seed 0 ({ID}): loss is NaN' in text
    assert f'not finished: slow/{ID}/seed4' in text
    assert f'trained and not tested, as a teacher is: slow/{ID}/seed5' in text


def test_without_a_finished_run_the_page_says_so(tmp_path):
    save(tmp_path / 'runs', make_failure('broken', 0, 'loss is NaN'))
    text, data = made(tmp_path)
    assert 'There is no finished run.' in text
    assert 'loss is NaN' in text
    assert data['parts'] == {}


def test_many_subsets_fit(tmp_path):
    names = list('abcdefgh')
    add(tmp_path / 'runs', 'm', 0, names=names, samples=20)
    text, data = made(tmp_path)
    assert len(part(data, '-heat')['cols']) == 255 + 2 + 8
    assert len(part(data, '-expected')['values']['0'][0]) == 255
    assert len(text) < 2_000_000
    # Curves of a few subsets stand for those of all.
    assert len(part(data, '-risk')['selects'][0]['options']) == 8 + 8 + 1


def test_the_same_records_make_the_same_page(results):
    first = made(results)[0]
    assert made(results)[0] == first


def test_a_broken_record_leaves_the_others(results):
    path = next(results.rglob('record.json'))
    path.write_text('{')
    text, data = made(results)
    assert 'cannot be read as a record' in text
    assert data['parts']


def test_a_section_that_fails_leaves_the_others(results, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError('oops')

    monkeypatch.setattr(document.costs, 'section_of', broken)
    text, data = made(results)
    assert 'This section cannot be made: ZeroDivisionError: oops' in text
    assert part(data, '-heat')


def test_a_page_that_fails_is_one_line(results, monkeypatch, capsys):
    def broken(*_):
        raise ZeroDivisionError('oops')

    monkeypatch.setattr(document, 'render', broken)
    assert command.main([str(results)]) == 2
    told = capsys.readouterr()
    page = results / 'index.html'
    assert told.err == f'error: {page} cannot be made: ZeroDivisionError: oops\n'
    assert not page.exists()


@pytest.mark.parametrize(
    ('words', 'told'),
    [([], 'runs: no runs found'), (['--datasets', '../x'], 'expected the name of a data set')],
)
def test_bad_arguments_are_one_line(words, told, tmp_path, capsys):
    if words:
        add(tmp_path / 'runs', 'm', 0)
    assert command.main([str(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count('\n') == 1


def test_a_typo_leaves_the_page_that_stands_there(tmp_path, capsys):
    add(tmp_path / 'runs', 'm', 0)
    assert command.main([str(tmp_path)]) == 0
    page = (tmp_path / 'index.html').read_bytes()
    capsys.readouterr()
    assert command.main([str(tmp_path), '--datasets', 'faces', 'facse']) == 2
    told = capsys.readouterr()
    assert "'facse'; did you mean 'faces'?" in told.err
    assert told.err.count('\n') == 1
    assert told.out == ''
    assert (tmp_path / 'index.html').read_bytes() == page


def test_run_writes_the_page_after_the_tables(results, monkeypatch, capsys):
    class Experiment:
        class data:
            name = 'faces'

        protocol_id = ID

    monkeypatch.setattr(running.plan, 'flat', lambda grid: grid)
    assert running.show_tables([Experiment], results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f'written: {results / "index.html"}'
    (results / 'index.html').unlink()
    (results / 'index.html').mkdir()
    assert not running.show_tables([Experiment], results)
    assert 'index.html: cannot be written' in capsys.readouterr().err


def test_help_does_not_wait_for_what_makes_pages():
    code = (
        'import sys, benchmark.report.page.command; '
        'sys.exit(bool({"jinja2", "vl_convert"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False)
    assert done.returncode == 0
