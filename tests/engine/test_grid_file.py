"""Grids in files: what they run, what is recorded of them, and files that are wrong or hostile."""

import dataclasses
import json

import pytest
import yaml

from benchmark import run
from benchmark.engine import arguments, plan, request
from benchmark.engine.grid_file import MOST, grid_of, read
from benchmark.engine.grids import GRIDS, NamedGrid
from benchmark.engine.yaml_file import LARGEST
from benchmark.errors import UserError
from benchmark.records import store
from benchmark.registry import discover
from tests.helpers.repetitions import scientific

discover()


def written(folder, text, name='sweep.yaml'):
    file = folder / name
    file.write_text(text)
    return file


def prepared(folder, *words):
    """The items of a command, none of which is run."""
    args = run.parser().parse_args(
        [*words, '--results', str(folder / 'results'), '--device', 'cpu']
    )
    arguments.check(args)
    return request.prepare(args)[0]


def planned(folder, *words):
    """The experiments of a command without searches."""
    return [plan.plain(item) for item in prepared(folder, *words)]


@pytest.mark.parametrize('name', sorted(GRIDS))
def test_every_named_grid_can_be_written_as_a_file(name, tmp_path):
    grid = grid_of(name)
    keys = {'about': grid.about, 'methods': list(grid.methods), 'seeds': list(grid.seeds)}
    keys |= {'gaps': list(grid.gaps)} if grid.gaps else {}
    keys |= {'datasets': list(grid.datasets)} if grid.datasets else {}
    keys |= {'vary': {k: list(v) for k, v in grid.vary.items()}} if grid.vary else {}
    keys |= {'options': dict(grid.options)} if grid.options else {}
    keys |= {'untuned': True} if grid.untuned else {}
    found = read(written(tmp_path, yaml.safe_dump(keys)))
    assert dataclasses.replace(found, name=name) == grid
    assert found.origin == {'name': 'sweep.yaml', 'sha256': grid.origin['sha256']}


FULL = """
about: everything at once
methods:
  - modality_dropout
  - mmanet: {alpha: [0, 4.0], beta: 0.5}
  - redcore:rate=0
datasets:
  - synth_rooms
  - synth_faces: {width: 8, data_seed: 3}
seeds: [3, 1]
options: {epochs: 4, synth_rooms.batch_size: 16}
vary:
  train: [250, 300]
  lr: [1e-3, 5e-4]
  synth_rooms.clip: [0, 1]
gaps: [complete, 'depth=0.5']
"""


def test_a_file_says_everything_that_a_command_says(tmp_path):
    grid = read(written(tmp_path, FULL))
    assert grid.methods == ('modality_dropout', 'mmanet:alpha=0,beta=0.5',
                            'mmanet:alpha=4.0,beta=0.5', 'redcore:rate=0')  # fmt: skip
    assert grid.datasets == ('synth_rooms', 'synth_faces:width=8,data_seed=3')
    assert grid.seeds == (3, 1)
    assert grid.gaps == ('complete', 'depth=0.5')
    assert grid.options == {'epochs': '4', 'synth_rooms.batch_size': '16'}
    assert grid.settings[:3] == [
        {'train': '250', 'lr': '1e-3', 'synth_rooms.clip': '0'},
        {'train': '250', 'lr': '1e-3', 'synth_rooms.clip': '1'},
        {'train': '250', 'lr': '5e-4', 'synth_rooms.clip': '0'},
    ]
    assert len(grid.settings) == 8
    assert grid.size() == 4 * 2 * 2 * 8 * 2


def test_what_a_file_varies_reaches_data_and_protocol(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(request, 'checked', lambda found, *_: opened.append(found) or found)
    text = FULL.partition('gaps:')[0].replace('  - redcore:rate=0\n', '')
    found = planned(tmp_path, '--grid', str(written(tmp_path, text)))
    # On the faces two settings that differ in the rooms' clip alone are one experiment.
    rooms = [e for e in found if e.data.name == 'synth_rooms']
    assert len({e.folder for e in rooms}) == len(rooms) == 3 * 2 * 8
    faces = {e.folder: e for e in found if e.data.name == 'synth_faces'}.values()
    assert len(faces) == 3 * 2 * 4
    assert {(e.data.options['train'], e.protocol.lr, e.protocol.clip) for e in rooms} == {
        (train, lr, clip) for train in (250, 300) for lr in (0.001, 0.0005) for clip in (0, 1)
    }
    assert {(e.protocol.epochs, e.protocol.batch_size) for e in rooms} == {(4, 16)}
    assert {e.protocol.batch_size for e in faces} != {16}
    assert {(e.data.task.width, e.data.options['data_seed']) for e in faces} == {(8, 3)}
    # Data are opened once for each setting of theirs, and not once for each learning rate.
    assert [[d.options['train'] for d in some] for some in opened] == [[250, 250], [300, 300]]


def test_what_a_file_says_of_a_data_set_that_is_left_out_does_not_apply(tmp_path):
    text = FULL.partition('gaps:')[0].replace('  - redcore:rate=0\n', '')
    file = str(written(tmp_path, text))
    found = planned(tmp_path, '--grid', file, '--datasets', 'synth_faces')
    assert {e.data.name for e in found} == {'synth_faces'}
    assert len(found) == len({e.folder for e in found}) == 3 * 2 * 4
    with pytest.raises(UserError, match="'synth_room.clip'; did you mean 'synth_rooms.clip'"):
        planned(tmp_path, '--grid', str(written(tmp_path, text.replace('rooms.clip', 'room.clip'))))


def test_options_of_a_method_may_differ_between_data_sets(tmp_path):
    text = 'methods: [rfnet, mmanet: {alpha: 5, synth_rooms.alpha: 7}]'
    both = [
        planned(tmp_path, '--grid', str(written(tmp_path, text))),
        planned(tmp_path, '--methods', 'rfnet', 'mmanet:alpha=5,synth_rooms.alpha=7'),
    ]
    for found in both:
        assert [(e.data.name, e.label) for e in found] == [
            ('synth_faces', 'rfnet'), ('synth_faces', 'mmanet:alpha=5'),
            ('synth_rooms', 'rfnet'), ('synth_rooms', 'mmanet:alpha=7'),
        ]  # fmt: skip
    with pytest.raises(UserError, match="'synth_room'; did you mean 'synth_rooms'"):
        planned(tmp_path, '--methods', 'mmanet:synth_room.alpha=7')


def test_what_a_method_has_on_a_data_set_that_is_left_out_does_not_apply(tmp_path):
    text = 'methods: [mmanet, mmanet: {synth_rooms.alpha: 7}]'
    file = str(written(tmp_path, text))
    found = planned(tmp_path, '--grid', file, '--datasets', 'synth_faces')
    assert [(e.data.name, e.label) for e in found] == [('synth_faces', 'mmanet')]
    file = str(written(tmp_path, text.replace('rooms.', 'room.')))
    with pytest.raises(UserError, match=r"'synth_room'; did you mean 'synth_rooms'\?"):
        planned(tmp_path, '--grid', file, '--datasets', 'synth_faces')
    with pytest.raises(UserError, match="'synth_rooms'; did you mean 'synth_faces'"):
        planned(tmp_path, '--methods', 'mmanet:synth_rooms.alpha=7', '--datasets', 'synth_faces')


def test_a_grid_leaves_out_methods_that_cannot_be_trained_for_a_kind_of_task(tmp_path, capsys):
    text = 'methods: [missing_prompts, rfnet]\nvary: {train: [50, 60]}'
    found = planned(tmp_path, '--grid', str(written(tmp_path, text)))
    assert {(e.data.name, e.label) for e in found} == {
        ('synth_faces', 'missing_prompts'), ('synth_faces', 'rfnet'), ('synth_rooms', 'rfnet'),
    }  # fmt: skip
    told = 'left out of --grid sweep.yaml: missing_prompts: cannot be trained for segmentation'
    assert capsys.readouterr().out.count(f'note: synth_rooms: {told}\n') == 1
    file = str(written(tmp_path, 'methods: [missing_prompts]\ndatasets: [synth_rooms]'))
    with pytest.raises(
        UserError, match='sweep.yaml: expected a method for segmentation, found none'
    ):
        planned(tmp_path, '--grid', file)
    with pytest.raises(UserError, match='expected a task of classification .*found segmentation'):
        planned(tmp_path, '--methods', 'missing_prompts', 'rfnet')


def test_an_option_of_one_data_set_may_be_varied_where_another_lacks_it():
    varied = NamedGrid('', ('rfnet',), vary={'nyuv2.classes': ('40', '13')})
    request.check_grid(varied, ['synth_faces', 'nyuv2'], {'classes': '40'})
    with pytest.raises(UserError, match='expected no classes beside it'):
        request.check_grid(varied, ['synth_faces', 'nyuv2:classes=40'], {})


def test_an_option_that_a_file_gives_and_varies_is_named_with_both_keys(tmp_path):
    file = written(
        tmp_path,
        'methods: [rfnet]\noptions: {synth_faces.width: 8}\nvary: {width: [4, 8]}',
    )
    told = 'sweep.yaml: expected no width .*; found width in vary and synth_faces.width in options$'
    with pytest.raises(UserError, match=told):
        planned(tmp_path, '--grid', str(file), '--datasets', 'synth_faces')


def test_what_is_typed_beside_a_file_applies_in_its_place(tmp_path):
    text = """
        methods: [rfnet]
        datasets: [synth_rooms]
        seeds: [5]
        options: {epochs: 4, synth_faces.lr: 0.5, clip: 1, val: 8, size: 32}
    """
    rooms = text.replace('synth_faces.lr', 'synth_rooms.lr')
    (found,) = prepared(tmp_path, '--grid', str(written(tmp_path, rooms + '    tune: 3')))
    assert (found.trials, found.seeds) == (3, (5,))
    file = str(written(tmp_path, rooms))
    (found,) = planned(tmp_path, '--grid', file)
    assert (found.seed, found.protocol.epochs, found.protocol.lr) == (5, 4, 0.5)
    words = ('--seeds', '8', '9', '--cfg-options', 'epochs=6', 'lr=0.25')
    found = planned(tmp_path, '--grid', file, *words)
    assert [e.seed for e in found] == [8, 9]
    assert {(e.protocol.epochs, e.protocol.lr, e.protocol.clip) for e in found} == {(6, 0.25, 1)}
    file = str(written(tmp_path, text))
    (found,) = planned(tmp_path, '--grid', file, '--datasets', 'synth_faces')
    assert (found.data.name, found.protocol.lr) == ('synth_faces', 0.5)


def test_the_hash_is_that_of_the_content(tmp_path):
    first = read(written(tmp_path, 'methods: [rfnet, mmanet: {alpha: 4}]\nseeds: [0, 1]'))
    varied = 'methods: [rfnet]\noptions: {%s, %s}\nvary: {clip: [0, 1]}'
    some = read(written(tmp_path, varied % ('lr: 1', 'epochs: 2')))
    assert read(written(tmp_path, varied % ('epochs: 2', 'lr: 1'))).origin == some.origin
    same = """# a comment
seeds:
- 0
- "1"
about: another layout
methods: ['rfnet', 'mmanet:alpha=4']"""
    assert read(written(tmp_path, same)).origin == first.origin
    other = read(written(tmp_path, same.replace('alpha=4', 'alpha=5'), 'other.yml'))
    assert other.origin['sha256'] != first.origin['sha256']
    assert other.origin['name'] == 'other.yml'


def test_a_run_of_a_file_is_the_run_of_the_command_line(tmp_path, capsys):
    text = """
        methods: [majority]
        datasets: [synth_rooms]
        options: {test: 8, val: 4, size: 32, width: 2}
        vary: {train: [8]}
    """
    file = written(tmp_path, text)
    how = ('--results', str(tmp_path / 'made'), '--device', 'cpu')
    assert run.main(['--grid', str(file), *how, '--dry-run']) == 0
    told = capsys.readouterr().out
    digest = grid_of(str(file)).origin['sha256']
    assert f'grid sweep.yaml: 1 experiments (SHA-256 {digest[:12]})' in told
    assert 'to run    synth_rooms  majority  seed 0' in told
    assert run.main(['--grid', str(file), *how]) == 0
    (record,) = store.scan(tmp_path / 'made').complete.values()
    assert record['grid'] == {'name': 'sweep.yaml', 'sha256': digest}
    words = ['--methods', 'majority', '--datasets', 'synth_rooms', '--cfg-options', 'train=8',
             'test=8', 'val=4', 'size=32', 'width=2']  # fmt: skip
    capsys.readouterr()
    assert run.main([*words, *how]) == 0
    assert '1 of 1 experiments are recorded already' in capsys.readouterr().out
    assert run.main([*words, '--results', str(tmp_path / 'typed'), '--device', 'cpu']) == 0
    (typed,) = store.scan(tmp_path / 'typed').complete.values()
    assert 'grid' not in typed
    assert scientific(record) == {**scientific(typed), 'grid': record['grid']}


BOMB = 'a: &a [x,x,x,x,x,x,x,x,x]\n' + ''.join(
    f'{new}: &{new} [{",".join(9 * [f"*{old}"])}]\n'
    for old, new in zip('abcdefgh', 'bcdefghi', strict=True)
)
WRONG = {
    'an option in two keys': (
        'methods: [rfnet]\nvary:\n  lr: [1e-3, 5e-4]\n  lr+warmup: [1e-2+0]',
        'line 4: lr+warmup: expected every option in one key of vary, found lr here and lr in lr',
    ),
    'an option twice in a key': (
        'methods: [rfnet]\nvary: {lr+lr: [1e-3+5e-4]}',
        'found lr here and lr in lr+lr',
    ),
    'an option of all data and of one': (
        'methods: [rfnet]\nvary: {synth_rooms.lr: [1e-3, 5e-4], lr: [1e-2]}',
        'lr: expected every option in one key of vary, found lr here and synth_rooms.lr in',
    ),
    'no truth': ('methods: [rfnet]\nuntuned: yes', "line 2: expected true or false, found 'yes'"),
    'a search without values': (
        'methods: [rfnet]\ntune: 4\nuntuned: true',
        'line 3: untuned: expected no key tune beside it',
    ),
    'a key': ('method: [rfnet]', "line 1: unknown key 'method'; did you mean 'methods'?"),
    'no methods': ('\nseeds: [1]', 'line 2: expected the key methods, found none'),
    'a key twice': ('methods: [rfnet]\nmethods: [m]', 'line 2: expected the key methods once'),
    'no list': ('methods: rfnet', "line 1: expected a list of methods, found 'rfnet'"),
    'an empty list': ('methods: []', 'line 1: expected a list of methods, found nothing'),
    'an empty file': ('# nothing\n', 'expected keys with values, found an empty file'),
    'a list alone': ('- rfnet', 'line 1: expected keys with values, found a list'),
    'a value twice': ('methods:\n- rfnet\n- rfnet', 'line 3: expected every value once'),
    'a number twice': ('methods: [m]\nvary: {lr: [1e-3, 0.001]}', 'line 2: expected every'),
    'seeds': ('methods: [m]\nseeds: [0, one]', "line 2: expected a whole number, found 'one'"),
    'a fraction': ('methods: [m]\nseeds: [1.5]', "line 2: expected a whole number, found '1.5'"),
    'options in a list': ('methods: [m]\noptions: [epochs=3]', 'line 2: expected keys with values'),
    'several values': ('methods: [m]\noptions: {lr: [1, 2]}', 'one value (several stand in vary)'),
    'joined values': (
        'methods: [m]\nvary: {train+epochs: [8+2, 9]}',
        "line 2: train+epochs: expected 2 values joined by +, one for each option, found '9'",
    ),
    'one value': ('methods: [m]\nvary: {lr: 1}', "line 2: expected a list of values, found '1'"),
    'no value': ('methods: [m]\noptions: {lr: }', 'line 2: expected one value'),
    'two names': ('methods: [{m: {a: 1}, n: {a: 1}}]', 'expected one name with its options'),
    'options twice': ('methods: [m:a=1: {b: 2}]', "a name before the colon, found 'm:a=1'"),
    'a comma': ('methods: [m: {a: "1,2"}]', 'several are separated by /'),
    'syntax': ('methods: [rfnet\nseeds: [0]', 'line 2: it is no YAML: '),
    'a tab': ('methods:\n\t- rfnet', 'line 2: it is no YAML: '),
    'two documents': ('methods: [m]\n---\nmethods: [n]', 'it is no YAML'),
    'a tag': ('methods: !!python/object/apply:os.system [id]', 'line 1: expected no tags'),
    'a base': ('_base_: other.yaml\nmethods: [m]', 'line 1: _base_: expected all in one file'),
    'a placeholder': ('methods: ["{{ fileDirname }}"]', 'expected plain values, found {{'),
    'a bare placeholder': ('methods: [{{ fileDirname }}]', 'line 1: expected a word as key'),
    'an alias': ('methods: &m [rfnet]\nseeds: *m', 'line 1: expected no anchors'),
    'a bomb of aliases': (BOMB, 'line 1: expected no anchors'),
    'deep': ('methods: ' + 9 * '[', 'line 1: expected at most 8 levels'),
    'very deep': ('[' * 90_000, 'line 1: '),
    'large': ('#' * (LARGEST + 1), f'expected at most {LARGEST} bytes, found {LARGEST + 1}'),
    'control characters': ('methods: ["\x00"]', 'it is no YAML: '),
    'bytes': (b'methods: [\xff]', 'expected text in UTF-8, found other bytes'),
    'many experiments': (
        'methods: [m]\nvary:\n' + ''.join(f'  o{i}: [{",".join(map(str, range(20)))}]\n'
                                          for i in range(9)),
        f'expected at most {MOST} experiments, found {20**9}',
    ),
    'many combinations': (
        'methods:\n- m:\n' + ''.join(f'    o{i}: [{",".join(map(str, range(20)))}]\n'
                                     for i in range(9)),
        f'line 2: expected at most {MOST} experiments',
    ),
    'a method': ('methods: [rfnte]', "unknown method 'rfnte'; did you mean 'rfnet'?"),
    'an option': (
        'methods: [rfnet]\noptions: {epoch: 3}',
        "--grid sweep.yaml 'epoch'; did you mean 'epochs'?",
    ),
    'what it varies': ('methods: [rfnet]\nvary: {trian: [3]}', "'trian'; did you mean 'train'?"),
    'what it varies there': (
        'methods: [rfnet]\nvary: {synth_room.train: [3]}',
        "did you mean 'synth_rooms.train'?",
    ),
    'both': ('methods: [rfnet]\nvary: {lr: [3]}\noptions: {lr: 3}', 'expected no lr beside it'),
    'a type': (
        'methods: [rfnet]\noptions: {epochs: ten}',
        "epochs: expected a whole number, found 'ten'",
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', sorted(WRONG))
def test_a_wrong_file_is_told_in_one_line(case, tmp_path, capsys):
    content, expected = WRONG[case]
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / 'sweep.yaml').write_bytes(content)
    words = ['--grid', str(tmp_path / 'sweep.yaml'), '--results', str(tmp_path / 'results')]
    assert run.main([*words, '--device', 'cpu']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert expected in line
    assert len(line) < 2000
    assert not (tmp_path / 'results' / 'runs').exists()


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ('missing.yaml', 'cannot be read: No such file'),
        ('sweep.py', 'expected a YAML file (.yaml or .yml) or one of reference, mmanet-ablation'),
        ('folder.yaml', 'expected a file, found a folder'),
        ('sign-filp', "did you mean 'sign-flip'?"),
    ],
)
def test_what_is_no_file_of_a_grid_is_told_in_one_line(given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, 'raise SystemExit', 'sweep.py')
    (tmp_path / 'folder.yaml').mkdir()
    with pytest.raises(UserError) as caught:
        grid_of(given)
    assert expected in str(caught.value)


def test_a_search_in_a_file_excludes_untuned_values(tmp_path, capsys):
    file = str(written(tmp_path, 'methods: [majority]\ntune: 4'))
    assert run.main(['--grid', file, '--untuned', '--results', str(tmp_path), '--list']) == 2
    assert '--untuned: expected no --tune beside it' in capsys.readouterr().err


def test_an_untuned_grid_leaves_out_the_values_of_searches(tmp_path):
    typed = ['--methods', 'mmanet', 'redcore', '--datasets', 'synth_faces']
    wanted = {e.identity for e in planned(tmp_path, *typed, '--untuned')}
    assert wanted.isdisjoint(e.identity for e in planned(tmp_path, *typed))
    text = 'methods: [mmanet, redcore]\ndatasets: [synth_faces]\nuntuned: %s'
    for given, same in (('true', True), ('True', True), ('false', False)):
        found = planned(tmp_path, '--grid', str(written(tmp_path, text % given)))
        assert ({e.identity for e in found} == wanted) == same
    plain = read(written(tmp_path, text % 'false')).origin
    assert plain == read(written(tmp_path, text.rpartition('\n')[0])).origin
    assert plain['sha256'] != read(written(tmp_path, text % 'true')).origin['sha256']


def test_records_hold_the_name_of_a_grid_as_one_line(tmp_path):
    file = written(tmp_path, json.dumps({'methods': ['rfnet']}), 'a\nb.yaml')
    assert read(file).name == 'a b.yaml'


def test_options_that_are_joined_change_together():
    grid = NamedGrid('', ('m',), vary={'train+epochs': ('8+2', '9+1'), 'width': ('4', '8')})
    assert grid.settings == [
        {'train': '8', 'epochs': '2', 'width': '4'}, {'train': '8', 'epochs': '2', 'width': '8'},
        {'train': '9', 'epochs': '1', 'width': '4'}, {'train': '9', 'epochs': '1', 'width': '8'},
    ]  # fmt: skip
    assert grid.varied == {'train': ('8', '9'), 'epochs': ('2', '1'), 'width': ('4', '8')}
    assert grid.size(2) == 2 * 3 * 4
