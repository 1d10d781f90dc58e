"""Training gaps that depend on something, and those that a file names."""

import csv
import itertools
import math
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from tasks import TASKS, Toy

from benchmark import files, run
from benchmark.engine import execution, gaps, manifest, plan, request
from benchmark.engine.building import Machine
from benchmark.engine.experiment import experiment as experiment_of
from benchmark.engine.gaps import Mechanism
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.missing import hide, mask_hash
from benchmark.options import Spec
from benchmark.records import repetition, store
from benchmark.registry import discover

discover()
NAMES = ('rgb', 'depth', 'ir')
RATES = 'depth=0.3,ir=0.55'
DEPENDENT = ('mar:rgb', 'mar:class', 'mnar')
MACHINE = Machine('cpu')


def built(data, **fields):
    return Protocol.build(data.recipe, fields, 'cpu', data.task.kind)


def zscores(values):
    return (values - values.mean()) / values.std()


def column(values):
    """Statistics (N, 1) of a single modality."""
    return np.asarray(values, dtype=float)[:, None]


@pytest.mark.parametrize('mechanism', ['mcar', *DEPENDENT, 'mnar:4', 'mar:rgb:-3'])
@pytest.mark.parametrize('seed', [0, 1])
def test_every_mechanism_hides_exactly_what_the_rates_say(mechanism, seed):
    data = Toy(TASKS['faces'], (97, 4, 4))
    kept = gaps.kept(data, built(data, rates=RATES, mechanism=mechanism), seed)
    assert (~kept).sum(0).tolist() == [0, math.floor(97 * 0.3), math.floor(97 * 0.55)]
    assert data.opened == ['train']


def test_the_first_draw_has_the_stated_probabilities():
    values, draws = np.array([0.0, 1.0, 1.5, 4.0, -2.0]), 1500
    weights = np.exp(0.8 * zscores(values))
    ids, everything, rate = [f's{i}' for i in range(5)], np.ones((5, 1), bool), np.array([0.2])
    found = Counter(
        int(np.argmin(hide(everything, ids, rate, seed, column(values), 0.8)))
        for seed in range(draws)
    )
    expected = draws * weights / weights.sum()
    assert scipy.stats.chisquare([found[i] for i in range(5)], expected).pvalue > 1e-3


def test_each_further_draw_is_among_those_that_are_left():
    values, draws = np.array([0.0, 1.0, 2.5, -1.0]), 1500
    w = np.exp(zscores(values))
    ids, everything, rate = list('abcd'), np.ones((4, 1), bool), np.array([0.5])
    pairs = list(itertools.combinations(range(4), 2))
    law = [w[i] * w[j] / w.sum() * (1 / (w.sum() - w[i]) + 1 / (w.sum() - w[j])) for i, j in pairs]
    assert sum(law) == pytest.approx(1)
    found = Counter(
        tuple(np.flatnonzero(~hide(everything, ids, rate, seed, column(values))[:, 0]))
        for seed in range(draws)
    )
    expected = [draws * p for p in law]
    assert scipy.stats.chisquare([found[p] for p in pairs], expected).pvalue > 1e-3


def test_the_dependence_is_monotone_and_grows_with_the_strength():
    values = np.arange(300.0)
    ids, everything = [f's{i}' for i in range(300)], np.ones((300, 1), bool)
    slopes = []
    for strength in (-1, 0.3, 1, 3):
        hidden = np.mean(
            [~hide(everything, ids, np.array([0.4]), s, column(values), strength)[:, 0]
             for s in range(60)], axis=0)  # fmt: skip
        thirds = hidden.reshape(3, 100).mean(1)
        assert thirds.mean() == pytest.approx(0.4)
        assert (np.diff(thirds) > 0).all() == (strength > 0)
        slopes.append(thirds[2] - thirds[0])
    assert slopes == sorted(slopes)
    assert slopes[0] < 0


def test_without_strength_the_gaps_are_those_of_chance():
    rng = np.random.default_rng(0)
    ids, everything, rates = [f's{i}' for i in range(200)], np.ones((200, 2), bool), np.full(2, 0.4)
    plain = hide(everything, ids, rates, 3)
    assert (hide(everything, ids, rates, 3, rng.normal(size=(200, 2)), 1e-9) == plain).all()
    assert (hide(everything, ids, rates, 3, np.ones((200, 2)), 5.0) == plain).all()


def test_scale_order_and_slices_change_nothing():
    rng = np.random.default_rng(1)
    values, order = rng.normal(size=(120, 1)), rng.permutation(120)
    ids, everything, rate = np.array([f's{i}' for i in range(120)]), np.ones((120, 1), bool), 0.3
    kept = hide(everything, ids, np.array([rate]), 0, values)
    assert (hide(everything, ids, np.array([rate]), 0, 7 * values - 3) == kept).all()
    shuffled = hide(everything, ids[order], np.array([rate]), 0, values[order])
    assert (shuffled == kept[order]).all()
    # Volumes of two slices around the same mean lose what samples with that mean lose.
    slices = np.concatenate([values + 1, values - 1])
    twice = hide(np.ones((240, 1), bool), np.tile(ids, 2), np.array([rate]), 0, slices)
    assert (twice == np.tile(kept, (2, 1))).all()


def test_an_unknown_statistic_counts_as_the_mean():
    values = np.array([-1.0, 1.0, np.nan, np.nan])
    w = np.exp(np.array([-1.0, 1.0, 0.0, 0.0]))  # deviation 1 over those that are known
    given = np.ones((4, 1), bool), list('abcd'), np.array([0.25])
    found = Counter(int(np.argmin(hide(*given, s, column(values)))) for s in range(1500))
    expected = 1500 * w / w.sum()
    assert scipy.stats.chisquare([found[i] for i in range(4)], expected).pvalue > 1e-3


def intensities(data):
    """Mean of each sample and modality of the training split, computed sample by sample."""
    inputs = Toy(data.task, tuple(data.sizes.values())).split('train').inputs
    return np.array([[float(np.mean([*map(float, x[i].ravel())])) for x in inputs.values()]
                     for i in range(data.sizes['train'])])  # fmt: skip


@pytest.mark.parametrize('mechanism', DEPENDENT)
def test_the_statistic_is_the_stated_one(mechanism):
    data = Toy(TASKS['faces'], (90, 4, 4))
    means, classes = intensities(data), data.split('train').target
    source = {'mar:rgb': means[:, [0, 0, 0]], 'mar:class': column(classes)[:, [0, 0, 0]]}
    expected = hide(
        np.ones((90, 3), bool),
        [f'train-{i}' for i in range(90)],
        np.array([0, 0.3, 0.55]),
        gaps.derive(5, 'gaps'),
        source.get(mechanism, means),
    )
    kept = gaps.kept(data, built(data, rates=RATES, mechanism=mechanism), 5)
    assert (kept == expected).all()
    assert (kept != gaps.kept(data, built(data, rates=RATES), 5)).any()


class Hidden(Toy):
    """A toy dataset whose training values are NaN wherever `kept` is False."""

    kept = None

    def split(self, name):
        split = super().split(name)
        if name == 'train' and self.kept is not None:
            for k, x in enumerate(split.inputs.values()):
                x[~self.kept[:, k]] = np.nan
        return split


def weights_of(data, results, protocol):
    e = experiment_of(Spec('modality_dropout'), data, protocol, 0, results)
    execution.train(e, MACHINE, lambda *_: None)
    assert 'test' not in data.opened
    return torch.load(e.folder / 'checkpoint.pth', weights_only=True)


def equal(pair):
    assert all(v.isfinite().all() for w in pair for v in w.values())
    return all(torch.equal(value, pair[1][key]) for key, value in pair[0].items())


@pytest.mark.parametrize('mechanism', ['mar:a', 'mar:class'])
def test_gaps_at_random_never_read_a_hidden_value(mechanism, tmp_path):
    first, second = (Hidden(TASKS['vectors'], (24, 8, 12)) for _ in range(2))
    protocol = built(first, rates='b=0.4', mechanism=mechanism, epochs=1)
    second.kept = gaps.kept(first, protocol, 0)
    pair = [weights_of(d, tmp_path / str(k), protocol) for k, d in enumerate((first, second))]
    assert equal(pair)


def test_gaps_not_at_random_read_hidden_values_for_the_mask_alone(tmp_path):
    first, second = (Hidden(TASKS['vectors'], (24, 8, 12)) for _ in range(2))
    protocol = built(first, rates='0.4', mechanism='mnar', epochs=1)
    second.kept = gaps.kept(first, protocol, 0)
    manifest.export(tmp_path / 'gaps.csv', [(first, protocol, 0)])
    masked = manifest.applied(tmp_path / 'gaps.csv', second, built(second, epochs=1))
    pair = [
        weights_of(d, tmp_path / str(k), p)
        for k, (d, p) in enumerate([(first, protocol), (second, masked)])
    ]
    assert equal(pair)


class Partial(Toy):
    """A toy dataset whose first two training samples have no rgb."""

    def split(self, name):
        split = super().split(name)
        split.available[:2, 0] = False
        split.inputs['rgb'][:2] = np.nan
        return split


def test_what_the_data_lack_has_no_statistic(tmp_path):
    data = Partial(TASKS['faces'])
    kept = gaps.kept(data, built(data, rates='rgb=0.5', mechanism='mnar'), 0)
    assert not kept[:2, 0].any()
    with pytest.raises(UserError, match='expected rgb in every training sample, found 2 samples'):
        gaps.kept(data, built(data, rates='ir=0.5', mechanism='mar:rgb'), 0)


def test_a_statistic_that_is_not_finite_is_named():
    data = Hidden(TASKS['faces'])
    data.kept = np.ones((40, 3), bool)
    data.kept[7, 0] = False
    with pytest.raises(UserError, match='expected finite values of rgb.* in sample train-7'):
        gaps.kept(data, built(data, rates='ir=0.5', mechanism='mar:rgb'), 0)


@pytest.mark.parametrize(
    ('spec', 'canonical'),
    [
        ('mcar', 'mcar'),
        ('mnar', 'mnar'),
        ('mnar:1', 'mnar'),
        ('mnar:2.0', 'mnar:2'),
        ('mar:rgb:1e0', 'mar:rgb'),
        ('mar:class:-.5', 'mar:class:-0.5'),
    ],
)
def test_mechanisms_have_one_spelling(spec, canonical):
    found = Mechanism.read(spec, NAMES)
    assert str(found) == canonical
    assert Mechanism.read(canonical, NAMES) == found


@pytest.mark.parametrize(
    ('fields', 'told'),
    [
        ({'mechanism': 'mnra', 'rates': '0.5'}, "did you mean 'mnar'"),
        ({'mechanism': 'mart:rgb', 'rates': 'ir=0.5'}, "did you mean 'mar'"),
        ({'mechanism': 'mcar:2', 'rates': '0.5'}, "unknown mechanism 'mcar:2'"),
        ({'mechanism': 'mar', 'rates': '0.5'}, "unknown modality in mechanism 'mar'"),
        ({'mechanism': 'mar:dept', 'rates': 'ir=0.5'}, "did you mean 'depth'"),
        (
            {'mechanism': 'mnar:0', 'rates': '0.5'},
            "finite strength other than 0, e.g. 2, found '0'",
        ),
        ({'mechanism': 'mnar:x', 'rates': '0.5'}, "found 'x'"),
        ({'mechanism': 'mnar:nan', 'rates': '0.5'}, "found 'nan'"),
        ({'mechanism': 'mar:rgb:1:2', 'rates': 'ir=0.5'}, "found '1:2'"),
        ({'mechanism': 'mnar'}, 'mechanism=mnar: expected rates beside it'),
        ({'mask': 'gaps.csv'}, 'expected the option --mask FILE'),
    ],
)
def test_a_bad_mechanism_is_told_in_one_line(fields, told):
    with pytest.raises(UserError) as error:
        gaps.spelled(fields, NAMES)
    assert told in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('task', 'fields', 'told'),
    [
        ('faces', {'rates': '0.5', 'mechanism': 'mar:rgb'}, 'expected no missing rate of rgb'),
        ('rooms', {'rates': '0.5', 'mechanism': 'mar:class'}, 'expected a classification task'),
    ],
)
def test_what_does_not_fit_the_task_is_refused_in_the_plan(task, fields, told, tmp_path):
    data = Toy(TASKS[task])
    e = experiment_of(Spec('complete'), data, built(data, **fields), 0, tmp_path)
    with pytest.raises(UserError, match=told):
        e.check()
    assert data.opened == []


def test_only_gaps_that_depend_on_something_change_a_protocol_s_id():
    data = Toy(TASKS['faces'])
    ids = [
        plan.protocol_for(data, fields, 'cpu').id('f')
        for fields in (
            {'rates': '0.5'},
            {'rates': '0.5', 'mechanism': 'mcar'},
            {'rates': '0.5', 'mechanism': 'mnar'},
            {'rates': '.5', 'mechanism': 'mnar:1'},
            {'rates': '0.5', 'mechanism': 'mnar:2'},
            {'rates': 'complete', 'mechanism': 'mnar:2'},
            {},
        )
    ]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[5] == ids[6]
    assert len(set(ids)) == 4
    assert 'mechanism' not in plan.protocol_for(data, {'rates': '0.5'}, 'cpu').recorded()


FEW = (3, 2, 2)
GOOD = [['id', *NAMES], ['train-0', 1, 1, 1], ['train-1', 0, 1, 0], ['train-2', 0, 0, 0]]


def written(path, rows):
    with path.open('w', newline='') as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_manifest_says_what_may_be_read(tmp_path):
    data = Toy(TASKS['faces'], FEW)
    protocol = manifest.applied(written(tmp_path / 'a.csv', GOOD), data, built(data))
    kept = gaps.kept(data, protocol, 0)
    assert kept.tolist() == [[True] * 3, [False, True, False], [False] * 3]
    assert (gaps.kept(data, protocol, 1) == kept).all()
    # Order of rows and columns, a byte order mark and blank lines change nothing.
    turned = [[*row[:0:-1], row[0]] for row in [GOOD[0], *GOOD[:0:-1]]]
    other = written(tmp_path / 'b.csv', turned)
    other.write_text('\ufeff' + other.read_text().replace('\r\n', '\n\n'), encoding='utf-8')
    again = manifest.applied(other, data, built(data))
    assert again == protocol
    assert (gaps.kept(data, again, 0) == kept).all()
    changed = [*GOOD[:3], ['train-2', 0, 0, 1]]
    differing = manifest.applied(written(tmp_path / 'c.csv', changed), data, built(data))
    assert differing.mask != protocol.mask
    assert len({p.id('f') for p in (protocol, differing, built(data))}) == 3
    assert protocol.id('f').startswith('uniform-gaps-last-')


@pytest.mark.parametrize(
    ('rows', 'told'),
    [
        ([], 'expected the columns id, rgb, depth, ir, each once, found none'),
        ([['id', 'rgb', 'dept', 'ir']], "did you mean 'depth'"),
        ([['id', 'rgb', 'depth']], 'expected the columns id, rgb, depth, ir, each once'),
        ([['id', *NAMES, 'rgb']], 'each once, found id, rgb, depth, ir, rgb'),
        (GOOD[:3], "found none for 1 of them, e.g. 'train-2'"),
        ([*GOOD, ['val-0', 1, 1, 1]], "found 1 that are none of them, e.g. 'val-0'"),
        ([*GOOD, GOOD[1]], "row 5: expected 'train-0' once"),
        ([*GOOD[:3], ['train-2', 0, 2, 1]], "row 4: depth: expected 0 or 1, found '2'"),
        ([*GOOD[:3], ['train-2', 0, 1]], 'row 4: expected 4 values, found 3'),
        ([*GOOD[:3], ['train-2', 'true', 1, 1]], "found 'true'"),
        ([GOOD[0], *([row[0], 0, 0, 0] for row in GOOD[1:])], 'expected some 1, found 0 for every'),
    ],
)
def test_a_bad_manifest_is_told_in_one_line(rows, told, tmp_path):
    data = Toy(TASKS['faces'], FEW)
    with pytest.raises(UserError) as error:
        manifest.applied(written(tmp_path / 'a.csv', rows), data, built(data))
    assert told in str(error.value)
    assert str(error.value).count('a.csv') == 1
    assert '\n' not in str(error.value)


def test_gaps_that_leave_nothing_are_refused_for_every_method():
    data = Toy(TASKS['faces'], FEW)
    told = 'toy: expected some training sample with a modality under the training gaps rates=1'
    with pytest.raises(UserError, match=told):
        gaps.kept(data, built(data, rates='1'), 0)


def test_what_is_no_file_of_text_is_no_manifest(tmp_path):
    data = Toy(TASKS['faces'], FEW)
    (tmp_path / 'bytes').write_bytes(b'\xff\xfe\x00')
    (tmp_path / 'quote').write_text('id,rgb\n"a')
    for name in ('bytes', 'quote', '.', 'absent'):
        with pytest.raises(UserError, match='cannot be read') as error:
            manifest.applied(tmp_path / name, data, built(data))
        assert '\n' not in str(error.value)


def test_a_manifest_cannot_give_what_the_data_lack(tmp_path):
    data = Partial(TASKS['faces'], FEW)
    with pytest.raises(UserError, match='expected 0 for rgb of train-0, .* found 1'):
        manifest.applied(written(tmp_path / 'a.csv', GOOD), data, built(data))


def test_a_manifest_stands_alone(tmp_path):
    file = written(tmp_path / 'a.csv', GOOD)
    data = Toy(TASKS['faces'], FEW)
    with pytest.raises(UserError, match='no other training gaps beside it, found rates=0.5'):
        manifest.applied(file, data, built(data, rates='0.5'))
    for datasets, settings in (([data, data], None), ([data], ['0.5'])):
        with pytest.raises(UserError, match='--mask: expected one data set and no --gaps'):
            request.check_mask(datasets, settings)


def test_a_manifest_beside_a_grid_of_two_data_sets_is_refused_before_it_is_read(tmp_path):
    # One of them does not get all methods of the grid.
    grid = tmp_path / 'grid.yaml'
    grid.write_text('methods: [missing_prompts, rfnet]')
    words = ['--grid', str(grid), '--mask', str(tmp_path / 'none.csv'), '--results', str(tmp_path)]
    with pytest.raises(UserError, match='--mask: expected one data set .* synth_faces, synth_room'):
        request.prepare(run.parser().parse_args([*words, '--device', 'cpu']))


def test_one_file_holds_one_mask(tmp_path):
    data = Toy(TASKS['faces'])
    protocol = built(data, rates='0.5')
    with pytest.raises(UserError, match='one seed and one setting .*, found toy seed 0 rates=0.5'):
        manifest.export(tmp_path / 'a.csv', [(data, protocol, 0), (data, protocol, 1)])
    with pytest.raises(UserError, match='found no experiment'):
        manifest.export(tmp_path / 'a.csv', [])
    assert list(tmp_path.iterdir()) == []
    manifest.export(tmp_path / 'a.csv', [(data, built(data), seed) for seed in (0, 1)])
    assert (tmp_path / 'a.csv').read_text().count('1,1,1\n') == 40


def test_the_repetition_of_a_masked_run_asks_for_the_file():
    record = {
        'method': {'label': 'rfnet', 'source': 'default'},
        'dataset': {'name': 'synth_faces', 'options': {}},
        'protocol': {'rates': '', 'epochs': 3, 'mask': 'abc'},
        'seed': 0,
    }
    told = repetition.command(record)
    assert told.endswith('--cfg-options epochs=3 --mask FILE')


@pytest.mark.parametrize(
    ('reader', 'name', 'told'),
    [
        ('volumes', 'lesions', '--datasets volumes:name=lesions --data-root PATH --seeds 0 '),
        ('synth_faces', 'synth_faces', '--datasets synth_faces --seeds 0 '),
        ('', 'lesions', '--datasets DATASET --data-root PATH --seeds 0 '),
    ],
)
def test_the_repetition_names_the_data_of_the_user(reader, name, told):
    data = {'name': name, 'options': {}, **({'reader': reader} if reader else {})}
    record = {'method': {'label': 'rfnet', 'source': 'default'}, 'dataset': data}
    assert told in repetition.command({**record, 'protocol': {'epochs': 3}, 'seed': 0})


def test_the_command_for_runs_in_another_folder_names_it(tmp_path):
    line = 'rfnet: no run; this fills it: python benchmark/run.py --methods rfnet'
    results = files.ROOT / 'results'
    assert repetition.placed(line, results / 'runs') == line
    assert repetition.placed(line, results / 'extra' / 'runs') == f'{line} --results results/extra'
    assert repetition.placed(line, tmp_path / 'runs') == f'{line} --results FOLDER'
    assert repetition.placed(line, results / 'others') == f'{line} --results FOLDER'
    assert repetition.placed('damaged', tmp_path / 'runs') == 'damaged'


def test_a_mask_that_was_exported_trains_the_same_network(tmp_path, capsys):
    file, words = tmp_path / 'gaps.csv', ['--methods', 'modality_dropout', '--device', 'cpu']
    words += ['--datasets', 'synth_faces', '--jobs', '1']
    small = ['train=16', 'val=8', 'test=8', 'size=16', 'width=4', 'batch_size=8', 'epochs=1']
    given = [*small, 'rates=depth=0.5', 'mechanism=mnar:2']
    first, second = ([*words, '--results', str(tmp_path / x)] for x in 'ab')
    assert run.main([*first, '--cfg-options', *given, '--export-mask', str(file), '--dry-run']) == 0
    told = capsys.readouterr().out
    assert f'written: {file}: what each training sample of' in told
    assert 'mechanism=mnar:2' in told
    assert not list(tmp_path.rglob('record.json'))
    assert run.main([*first, '--cfg-options', *given]) == 0
    assert run.main([*second, '--cfg-options', *small, '--mask', str(file)]) == 0
    records = [store.read(next((tmp_path / x).rglob('record.json'))) for x in 'ab']
    assert records[0]['scores'] == records[1]['scores']
    assert records[0]['gaps'] == records[1]['gaps']
    assert records[0]['gaps']['rates'] == {'rgb': 0, 'depth': 0.5, 'ir': 0}
    assert records[0]['protocol']['mechanism'] == 'mnar:2'
    assert records[1]['protocol']['mask']
    assert records[0]['identity'] != records[1]['identity']
    kept = [row[1:] for row in csv.reader(file.open())][1:]
    assert len(kept) == 16
    assert records[1]['gaps']['mask_hash'] != mask_hash(np.ones((16, 3), bool))


def test_the_table_by_gaps_joins_and_names_what_the_gaps_depend_on():
    from benchmark.report import gaps as tables

    data = {'fingerprint': 'f', 'modalities': ['a', 'b']}

    def runs(rates, **fields):
        protocol = {'rates': fields.pop('given', ''), 'epochs': 1, **fields}
        realised = {'rates': dict(zip('ab', rates, strict=True))}
        record = {'protocol': protocol, 'dataset': data, 'gaps': realised}
        return SimpleNamespace(records=[record], own=[record], data=data)

    found = tables.joined([
        runs((0.5, 0), given='a=0.5', mechanism='mnar'),
        runs((0, 0)),
        runs((0.5, 0), given='a=0.5'),
        runs((0.25, 0.1), mask='abc'),
    ])  # fmt: skip
    (leads,) = found.values()
    unscored = [runs((0, 0), given='a=0.5', mechanism='mnar'), runs((0, 0), mask='abc')]
    told = [tables.nominal(found.records[0]) for found in unscored]
    assert told == ['50/0 (mechanism=mnar)', 'mask=abc']
    assert list(leads) == ['0/0', '25/10 (mask=abc)', '50/0', '50/0 (mechanism=mnar)']


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path, capsys):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    words = ['--methods', 'majority', '--datasets', 'synth_faces', '--device', 'cpu', '--dry-run']
    words += ['--results', str(tmp_path), '--cfg-options', 'train=16', 'test=8', 'rates=0.3']
    assert run.main([*words, '--export-mask', str(pipe)]) == 2
    told = 'cannot be written: expected a file, found a pipe, socket or device'
    assert f'error: {pipe}: {told}' in capsys.readouterr().err
    assert pipe.is_fifo()
