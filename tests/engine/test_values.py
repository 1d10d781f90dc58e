"""Which values apply: those typed, those of results/settings.json, of the paper, the defaults."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from tasks import TASKS, Toy

from benchmark import run
from benchmark.engine import notes, plan, values
from benchmark.errors import UserError
from benchmark.options import Spec, typed
from benchmark.registry import DATASETS, METHODS, discover, parse_spec

discover()
SEARCH = 'a search over 8 trials on data_seed=0'


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Writes a file of chosen values for the data set that the toys name."""

    def write(*entries):
        file = tmp_path / 'settings.json'
        keys = ('method', 'options', 'source')
        file.write_text(
            json.dumps({'toy': [dict(zip(keys, (*e, SEARCH), strict=True)) for e in entries]})
        )
        monkeypatch.setattr(values, 'FILE', file)

    return write


@pytest.fixture
def planned(tmp_path):
    data = Toy(dataclasses.replace(TASKS['faces'], dataset='toy'))

    def one(spec, **fields):
        request = plan.Request([spec], (0,), {}, tmp_path, 'cpu', **fields)
        (found,) = plan.experiments(request, [data])
        return found

    return one


def test_a_chosen_value_applies_and_the_record_says_where_it_comes_from(chosen, planned):
    before = planned('mmanet')
    chosen(('mmanet', {'alpha': 2, 'beta': 0.25}))
    e = planned('mmanet')
    assert (e.label, e.source) == ('mmanet', 'settings.json')
    assert e.options == {**before.options, 'alpha': 2.0, 'beta': 0.25}
    assert e.header['method']['options']['alpha'] == 2.0
    assert f'alpha=2, beta=0.25 from {SEARCH}' in notes.of(e)
    assert not [note for note in notes.of(before) if 'alpha' in note]


def test_what_is_typed_goes_before_what_was_chosen(chosen, planned):
    chosen(('mmanet', {'alpha': 2.0, 'beta': 0.25}))
    e = planned('mmanet:alpha=4')
    assert (e.label, e.source) == ('mmanet:alpha=4', 'given')
    assert (e.options['alpha'], e.options['beta']) == (4.0, 0.25)
    assert f'beta=0.25 from {SEARCH}' in notes.of(e)
    assert planned('mmanet:alpha=2').folder == planned('mmanet').folder


def test_untuned_is_what_applies_without_the_file(chosen, planned):
    before = planned('mmanet')
    chosen(('mmanet', {'alpha': 2.0, 'beta': 0.5}))
    e = planned('mmanet', untuned=True)
    # 0.5 is beta's default as well.
    assert (e.label, e.source) == ('mmanet:alpha=30', 'given')
    assert e.options == before.options
    assert e.identity == before.identity
    assert planned('mmanet:alpha=30').folder == e.folder
    assert planned('mmanet:alpha=4', untuned=True).options['alpha'] == 4.0


def test_identity_follows_from_values_alone(chosen, planned):
    typed_before = planned('mmanet:alpha=2').identity
    chosen(('mmanet', {'alpha': 2.0}))
    assert planned('mmanet').identity == typed_before


def test_an_entry_applies_where_its_own_options_hold(chosen, planned):
    chosen(
        ('distilled:loss=at', {'alpha': '500'}),
        ('distilled:loss=soft_target', {'alpha': '3', 'temperature': 4.0}),
    )
    assert planned('distilled').options['temperature'] == 4.0
    assert planned('distilled:loss=sp').options['alpha'] == 'auto'
    at = planned('distilled:loss=at')
    assert (at.options['alpha'], at.label) == (500.0, 'distilled:loss=at')
    assert planned('distilled:alpha=500,loss=at').folder == at.folder
    assert planned('modality_dropout').source == 'default'


def test_of_two_entries_the_later_one_counts(chosen, planned):
    chosen(('mmanet', {'alpha': 2.0, 'beta': 0.1}), ('mmanet', {'alpha': 3.0}))
    e = planned('mmanet')
    assert (e.options['alpha'], e.options['beta']) == (3.0, 0.1)
    assert [n for n in notes.of(e) if SEARCH in n] == [
        f'beta=0.1 from {SEARCH}',
        f'alpha=3 from {SEARCH}',
    ]


def test_a_search_starts_from_what_was_chosen(chosen, planned):
    chosen(('mmanet', {'alpha': 2.0}))
    first, second = planned('mmanet', tune=2).experiments
    assert first.options['alpha'] == 2.0
    assert second.options['alpha'] != 2.0


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (('mmanet', {'alfa': 2.0}), "settings.json: .*did you mean 'alpha'"),
        (
            ('mmanet', {'alpha': 'much'}),
            "settings.json: mmanet:alpha: expected a number, found 'much'",
        ),
        (('mmanet:weak', {'alpha': 2.0}), 'settings.json: .*expected key=value'),
        (('mmanet', {'alpha': 10**400}), 'settings.json: mmanet:alpha: expected a number'),
        ((3, {}), 'settings.json: toy: expected entries'),
        (('mmanet', [2.0]), 'settings.json: toy: expected entries with method'),
    ],
)
def test_a_wrong_entry_is_told_in_one_line(entry, message, chosen, planned):
    chosen(entry)
    with pytest.raises(UserError, match=message):
        planned('mmanet')


WHOLE = ['', '{', '[]', 'null', '[' * 200_000]
"""What a damaged file holds that names no data set."""

DAMAGED = [*WHOLE, '{"toy": 3}', '{"toy": [3]}', '{"a":' * 200_000]


@pytest.mark.parametrize('text', DAMAGED, ids=lambda text: text[:12])
def test_a_damaged_file_is_told_in_one_line(text, chosen, planned):
    chosen()
    values.FILE.write_text(text)
    with pytest.raises(UserError, match=r'settings.json: .*expected .*entries') as told:
        planned('mmanet')
    assert '\n' not in str(told.value)
    assert str(told.value).endswith('; --untuned leaves the file out')


@pytest.mark.parametrize('text', DAMAGED, ids=lambda text: text[:12])
def test_a_damaged_file_stops_nothing_that_it_cannot_change(text, chosen, planned):
    before, plain = planned('mmanet', untuned=True), planned('majority')
    chosen()
    values.FILE.write_text(text)
    e = planned('mmanet', untuned=True)
    assert (e.identity, e.folder, e.source) == (before.identity, before.folder, before.source)
    assert notes.of(e) == notes.of(before)
    # It has no option that the file could choose.
    assert planned('majority').identity == plain.identity


@pytest.mark.parametrize('entries', ['3', '[3]', '[{"method": "mmanet"}]', '{"method": "mmanet"}'])
def test_entries_of_another_data_set_are_not_looked_at(entries, chosen, planned):
    chosen(('mmanet', {'alpha': 2.0}))
    whole = values.FILE.read_text()
    values.FILE.write_text(f'{{"other": {entries}, {whole[1:]}')
    assert planned('mmanet').options['alpha'] == 2.0


def test_untuned_leaves_out_an_entry_that_does_not_fit(chosen, planned):
    before = planned('mmanet', untuned=True)
    chosen(('mmanet', {'alfa': 2.0}))
    assert planned('mmanet', untuned=True).identity == before.identity


@pytest.mark.parametrize('make', [Path.mkdir, os.mkfifo], ids=['folder', 'pipe'])
def test_what_is_no_file_is_not_read(make, chosen, planned):
    chosen()
    values.FILE.unlink()
    make(values.FILE)
    with pytest.raises(UserError, match=r'settings.json: .*found a folder, pipe'):
        planned('mmanet')


def test_the_file_cannot_name_code_to_run(tmp_path, chosen, planned):
    (tmp_path / 'evil.py').write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    chosen((f'{tmp_path}/evil.py:mmanet', {}))
    with pytest.raises(UserError, match=r'method in methods/'):
        planned('mmanet')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('source', ['\x1b[31mred', 'two\nlines', 'long' * 300, 3, None])
def test_a_source_is_one_line_that_a_record_can_hold(source, chosen, planned):
    chosen(('mmanet', {'alpha': 2.0}))
    found = json.loads(values.FILE.read_text())
    found['toy'][0]['source'] = source
    values.FILE.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r'source \(one line'):
        planned('mmanet')


def test_untuned_and_tune_exclude_each_other(tmp_path, capsys):
    words = ['--methods', 'mmanet', '--untuned', '--tune', '2', '--results', str(tmp_path)]
    assert run.main(words) == 2
    assert '--untuned: expected no --tune beside it' in capsys.readouterr().err


def test_every_committed_value_fits_its_data_set_and_method():
    for dataset in json.loads(values.FILE.read_text()):
        cls = DATASETS.module_dict[dataset]
        assert cls.embedded
        for entry in values.read(dataset):
            name, under = parse_spec(entry['method'])
            options = values.usual(Spec(name, tuple(typed_of(name, under).items())), dataset)
            METHODS.module_dict[name](TASKS['faces'], **options)
            assert not set(under) & set(entry['options'])


def typed_of(name, given):
    return typed(METHODS.module_dict[name], name, given)


def test_papers_settings_are_of_data_sets_that_are_not_embedded():
    for cls in METHODS.module_dict.values():
        assert not [name for name in cls.settings if DATASETS.module_dict[name].embedded]
