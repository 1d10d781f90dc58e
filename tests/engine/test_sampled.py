"""Runs that are tested on a sample or a list of the subsets, from the command to the record."""

import json

import numpy as np
import pytest

from benchmark import run, tested
from benchmark.engine import listing_all, notes, plan
from benchmark.engine.experiment import CannotTrain, experiment
from benchmark.engine.hooks import Selection
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.method import SubsetScore
from benchmark.options import Spec
from benchmark.records import store
from benchmark.registry import discover

discover()


def arrays(file, count, samples=30):
    """Writes an `arrays` file of many vectors that all tell something of the class."""
    rng = np.random.default_rng(0)
    y = np.arange(samples) % 2
    keys = {f'inputs/s{k:02}': rng.normal(size=(samples, 2)) + y[:, None] for k in range(count)}
    np.savez(file, target=y, split=np.arange(samples) // 2 % 3, **keys)
    return file


def opened(file, **options):
    (data,) = plan.open_datasets(['arrays'], [file], {})
    return data, plan.protocol_for(data, options, 'cpu')


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """A run of 9 modalities tested on 33 subsets; returns its folder and its record."""
    folder = tmp_path_factory.mktemp('sampled')
    file = arrays(folder / 'nine.npz', 9)
    words = ['--methods', 'modality_dropout', '--datasets', 'arrays', '--data-root', str(file)]
    words += ['--results', str(folder / 'r'), '--device', 'cpu', '--subsets', 'sampled:33']
    assert run.main([*words, '--jobs', '1', '--cfg-options', 'epochs=1', 'width=4']) == 0
    (found,) = folder.glob('r/runs/nine/*/*/seed0/record.json')
    return folder / 'r', store.read(found), found


def test_a_sample_is_tested_and_recorded(command):
    results, record, file = command
    names = record['dataset']['modalities']
    chosen = tested.tested('sampled:33', names)
    assert record['protocol']['subsets'] == 'sampled:33'
    tests = record['scores']['test']
    assert set(tests) == set(record['scores']['val']) == set(record['cost']['flops']) == set(chosen)
    outcomes = store.read_outcomes(file.with_name(store.OUTCOMES), record)
    assert {k.partition('/')[2] for k in outcomes if '/' in k} == set(chosen)
    curves = json.loads(file.with_name('curves.json').read_text())
    assert set(curves['networks']['']['validation']) == set(chosen)
    table = (results / 'tables/nine.md').read_text()
    assert 'an estimate of the mean over all 511 subsets from a sample of 33' in table


def test_twenty_modalities_train_and_test_with_bounded_files(tmp_path):
    file = arrays(tmp_path / 'twenty.npz', 20, samples=60)
    words = ['--methods', 'modality_dropout', 'hemis', '--datasets', 'arrays', '--data-root']
    words += [str(file), '--results', str(tmp_path / 'r'), '--device', 'cpu', '--jobs', '1']
    assert run.main([*words, '--cfg-options', 'epochs=1', 'width=4']) == 0
    found = sorted(tmp_path.glob('r/runs/twenty/*/*/seed0/record.json'))
    assert len(found) == 2
    for path in found:
        record = store.read(path)
        # Of 1,048,575 subsets the default tests 128.
        assert record['protocol']['subsets'] == 'sampled:128'
        assert len(record['scores']['test']) == 128
        assert path.stat().st_size < 150_000
        assert path.with_name(store.OUTCOMES).stat().st_size < 150_000
    assert (tmp_path / 'r/tables/twenty.md').stat().st_size < 150_000


def test_another_choice_of_subsets_is_another_protocol_and_all_is_the_old_one(tmp_path):
    file = arrays(tmp_path / 'ten.npz', 10)
    ids = {}
    for which in ('', 'all', 'sampled:128', 'sampled:64', 'list:1,3ff'):
        data, protocol = opened(file, subsets=which)
        ids[which] = protocol.id(data.fingerprint)
        assert ('subsets' in protocol.recorded()) == (which != 'all')
    assert ids[''] == ids['sampled:128']
    assert len(set(ids.values())) == 4
    few = arrays(tmp_path / 'three.npz', 3)
    assert 'subsets' not in opened(few)[1].recorded()
    assert opened(few)[1] == opened(few, subsets='sampled:64')[1]


def test_a_network_per_subset_is_trained_for_the_tested_subsets_alone(tmp_path):
    data, protocol = opened(arrays(tmp_path / 'm.npz', 20), subsets='list:1,80001,fffff')
    one = experiment(Spec('customized'), data, protocol, 0, tmp_path)
    assert [part.only for part in one.parts] == [[s] for s in one.subsets]
    assert one.subsets == ['s00', 's00+s19', '+'.join(data.task.names)]


@pytest.mark.parametrize('name', listing_all.METHODS)
def test_a_method_that_goes_through_all_subsets_is_refused_before_it_is_built(tmp_path, name):
    data, protocol = opened(arrays(tmp_path / 'm.npz', 13))
    refused = experiment(Spec(name), data, protocol, 0, tmp_path)
    with pytest.raises(CannotTrain, match=r'all 8,191 subsets.*at most 12 modalities, found 13'):
        _ = refused.readable
    assert not listing_all.refusal(name, 12)
    assert not listing_all.refusal('rfnet', 20)


def test_the_epoch_is_chosen_by_the_estimated_mean(tmp_path):
    names = [f's{k}' for k in range(9)]
    chosen = tested.tested('sampled:31', names)
    rng = np.random.default_rng(0)
    values = dict(zip(chosen, rng.random(len(chosen)).tolist(), strict=True))
    scores = {s: SubsetScore({'accuracy': v}, (1.0,), 5) for s, v in values.items()}
    rule = Selection('mean', 'accuracy', '+'.join(names), tmp_path, 'sampled:31')
    assert rule._value(scores) == pytest.approx(tested.mean(values, 9, 'sampled:31'))
    plain = Selection('mean', 'accuracy', '+'.join(names), tmp_path)
    assert plain._value(scores) == pytest.approx(np.mean(list(values.values())))


def test_how_many_subsets_are_tested_is_a_sentence_also_of_one(tmp_path):
    data, protocol = opened(arrays(tmp_path / 'm.npz', 3), subsets='list:7')
    one = experiment(Spec('hemis'), data, protocol, 0, tmp_path)
    assert notes._tested(one).endswith(': 1 of 7 subsets is tested')
    data, protocol = opened(arrays(tmp_path / 'm.npz', 3), subsets='list:1,7')
    two = experiment(Spec('hemis'), data, protocol, 0, tmp_path)
    assert notes._tested(two).endswith(': 2 of 7 subsets are tested')


def test_the_option_is_not_given_twice(tmp_path, capsys):
    words = ['--methods', 'hemis', '--results', str(tmp_path), '--subsets', 'all']
    assert run.main([*words, '--cfg-options', 'subsets=all', '--dry-run']) == 2
    assert 'expected no subsets in --cfg-options beside it' in capsys.readouterr().err


def test_the_field_of_a_protocol_is_what_a_record_repeats():
    assert Protocol(subsets='sampled:75').recorded()['subsets'] == 'sampled:75'
    with pytest.raises(UserError, match='a number from 75 to 1000'):
        tested.spelled('sampled:5', [f's{k}' for k in range(20)])


def test_a_list_without_what_a_method_mines_is_refused_in_the_plan(tmp_path, capsys):
    arrays(tmp_path / 'three.npz', 3)
    (tmp_path / 'list').write_text('s00\ns01+s02\ns00+s01+s02\n')
    words = ['--datasets', 'arrays', '--data-root', str(tmp_path / 'three.npz'), '--subsets']
    words += [str(tmp_path / 'list'), '--results', str(tmp_path / 'r'), '--device', 'cpu']
    words += ['--cfg-options', 'epochs=1']
    for method in ('mmanet', 'distilled:mar=true'):
        assert run.main(['--methods', method, 'majority', *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            f'error: {method} on three: expected in --subsets all 3 subsets that lack one '
            'modality, which it mines, such as s00+s02, found 1 of them'
        )
    assert not list((tmp_path / 'r').rglob('*.pth'))
    # Without mining nothing is read of the validation.
    data, protocol = opened(tmp_path / 'three.npz', subsets=str(tmp_path / 'list'))
    for spec in (Spec('mmanet', (('weak', 'all'),)), Spec('distilled')):
        experiment(spec, data, protocol, 0, tmp_path).check()
