"""Named grids: every one is made of existing methods and options, and one command runs it."""

import json

import pytest

from benchmark import run
from benchmark.engine import notes, plan, request
from benchmark.engine.grids import EMBEDDED, GRIDS, NamedGrid
from benchmark.engine.request import check_grid
from benchmark.errors import UserError
from benchmark.options import options_of
from benchmark.registry import METHODS, discover

discover()


def planned(*words):
    """The experiments of a command, none of which is run."""
    grid, _ = request.prepare(run.parser().parse_args([*words, '--device', 'cpu']))
    return plan.flat(grid)


@pytest.mark.parametrize('name', sorted(GRIDS))
def test_a_grid_is_planned_on_both_embedded_sets(name, tmp_path):
    found = planned('--grid', name, '--results', str(tmp_path))
    grid = GRIDS[name]
    on_faces = len(grid.methods)
    on_rooms = on_faces - ('missing_prompts' in grid.methods)  # which takes no label maps
    each = len(grid.settings) * len(grid.gaps or [0])
    assert len(found) == len(grid.seeds) * each * (on_faces + on_rooms)
    assert len({e.folder for e in found}) == len(found)
    assert len({e.identity for e in found}) == len(found)
    assert {e.seed for e in found} == set(grid.seeds)


def test_the_ablation_names_each_loss_and_each_choice_of_weak_combinations(tmp_path):
    for dataset, target in (
        ('synth_faces', 'distilled:alpha=auto,temperature=2'),  # a search found other values
        ('synth_rooms', 'distilled'),
    ):
        words = '--grid', 'mmanet-ablation', '--datasets', dataset, '--results', str(tmp_path)
        labels = {e.label for e in planned(*words)}
        assert len(labels) == len(GRIDS['mmanet-ablation'].methods)
        rest = {'mmanet', 'mmanet:alpha=0', 'mmanet:beta=0', 'mmanet:weak=all'}
        assert rest | {target} <= labels


def test_the_variants_are_those_of_all_methods_that_follow_a_paper_and_its_code():
    both = {
        name
        for name, cls in METHODS.module_dict.items()
        if 'variant' in options_of(cls) and name != 'missing_prompts'
    }
    rows = GRIDS['variants'].methods
    assert sorted(rows) == sorted(f'{n}:variant={v}' for n in both for v in ('paper', 'official'))


def test_the_untuned_rows_are_those_of_all_methods_that_have_a_search(tmp_path):
    found = planned('--grid', 'untuned', '--seeds', '0', '--results', str(tmp_path))
    defaults = {
        name: {key: option.default for key, option in options_of(cls).items()}
        for name, cls in METHODS.module_dict.items()
    }
    searched = {n for n, given in defaults.items() if METHODS.get(n).search_space(given)}
    assert {e.name for e in found} == searched
    assert {e.source for e in found} <= {'given', 'default', 'paper'}
    assert not any('search' in note for e in found for note in notes.of(e))


def test_what_is_varied_on_a_data_set_that_is_not_chosen_does_not_apply(tmp_path):
    words = '--grid', 'variance', '--seeds', '0', '--results', str(tmp_path)
    usual = {'synth_faces': 10, 'synth_rooms': 15}
    hashes = set()
    for chosen in (['synth_faces'], ['synth_rooms'], ['synth_faces', 'synth_rooms']):
        found = planned(*words, '--datasets', *chosen)
        assert {(e.data.name, e.protocol.ema, e.protocol.epochs / usual[e.data.name])
                for e in found} == {
            (name, ema, times) for name in chosen for ema, times in ((0, 1), (0.98, 1), (0, 2))
        }  # fmt: skip
        args = run.parser().parse_args([*words, '--datasets', *chosen, '--device', 'cpu'])
        hashes.add(request.prepare(args)[1].grid['sha256'])
    assert hashes == {GRIDS['variance'].origin['sha256']}


def test_the_flip_varies_samples_and_width_of_the_data(tmp_path):
    found = planned(
        '--grid', 'sign-flip', '--datasets', 'synth_rooms', '--seeds', '4', '--results',
        str(tmp_path),
    )  # fmt: skip
    sizes = {(e.data.options['train'], e.data.task.width) for e in found}
    assert sizes == {(n, w) for n in (125, 500, 2000) for w in (4, 8, 12)}
    assert {(e.data.options['train'], e.protocol.epochs) for e in found} == {
        (125, 40), (500, 20), (2000, 10),
    }  # fmt: skip
    assert {e.seed for e in found} == {4}


def test_the_rates_of_training_gaps_grow(tmp_path):
    found = planned('--grid', 'redcore-rates', '--datasets', 'synth_faces', '--results',
                    str(tmp_path))  # fmt: skip
    rates = list(dict.fromkeys(e.protocol.rates for e in found))
    assert rates == ['', '0.1', '0.3', '0.5', '0.7', '0.9']


WRONG = {
    'no such grid': (['--grid', 'mmanet-ablatoin'], "did you mean 'mmanet-ablation'"),
    'methods beside it': (['--grid', 'sign-flip', '--methods', 'rfnet'], 'no --methods beside it'),
    'gaps beside it': (['--grid', 'sign-flip', '--gaps', '0.5'], 'no --gaps beside it'),
    'what it varies': (
        ['--grid', 'sign-flip', '--cfg-options', 'width=8'],
        'no width beside it, which it varies; found width in vary and width in --cfg-options',
    ),
    'what it varies there': (
        ['--grid', 'sign-flip', '--cfg-options', 'synth_faces.train=9'],
        'no train beside it, which it varies; found train in vary and synth_faces.train in --cfg',
    ),
    'what it varies in the spec': (
        ['--grid', 'sign-flip', '--datasets', 'synth_faces:train=9'],
        'found train in vary and train in synth_faces:train=9',
    ),
    'data without the option': (
        ['--grid', 'sign-flip', '--datasets', 'nyuv2'],
        "unknown option of nyuv2 'train'",
    ),
}


@pytest.mark.parametrize('case', sorted(WRONG))
def test_what_does_not_fit_a_grid_is_told_in_one_line(case, tmp_path, capsys):
    words, expected = WRONG[case]
    assert run.main([*words, '--results', str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert expected in line


def test_an_option_that_only_another_data_set_has_is_no_obstacle():
    check_grid(GRIDS['redcore-rates'], ['nyuv2'], {})
    with pytest.raises(UserError, match='expected no width'):
        check_grid(GRIDS['sign-flip'], EMBEDDED, {'synth_rooms.width': '4'})


def test_one_command_runs_a_grid_and_the_ordinary_table_prints_it(tmp_path, monkeypatch, capsys):
    varied = {'train': ('16', '24'), 'width': ('2',)}
    tiny = NamedGrid('tiny', ('majority', 'logistic'), (0, 1), None, varied)
    monkeypatch.setitem(GRIDS, 'tiny', tiny)
    words = ['--grid', 'tiny', '--datasets', 'synth_faces', '--cfg-options', 'val=8', 'test=8',
             'size=16']  # fmt: skip
    assert run.main([*words, '--results', str(tmp_path), '--device', 'cpu']) == 0
    records = [json.loads(f.read_text()) for f in tmp_path.rglob('record.json')]
    assert len(records) == 8
    told = capsys.readouterr().out
    assert told.count('\nlogistic ') == 2
    assert 'train=16,' in told
    assert 'train=24,' in told
