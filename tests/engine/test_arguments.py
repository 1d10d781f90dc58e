"""Mistakes in the arguments that are told before anything that takes long is imported."""

import sys

import pytest

from benchmark import run
from benchmark.engine import arguments
from benchmark.errors import UserError


def check(*words):
    arguments.check(run.parser().parse_args([*words]))


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    """As in a new process, where no method has been imported."""
    monkeypatch.delitem(sys.modules, 'benchmark.registry', raising=False)


def test_a_command_needs_methods():
    told = '--methods: expected some of actionmae, .*, mmanet, .*, uhved$'
    for words in ([], ['--seeds', '1'], ['--dry-run']):
        with pytest.raises(UserError, match=told):
            check(*words)
    check('--list')
    check('--methods', 'mmanet')
    check('--grid', 'balance')


@pytest.mark.parametrize('trials', [-1, 0, 1])
def test_a_search_needs_two_trials(trials, tmp_path):
    told = f'--tune: expected 2 trials or more, the first untuned, found {trials}'
    with pytest.raises(UserError, match=told):
        check('--methods', 'mmanet', f'--tune={trials}')
    check('--methods', 'mmanet', '--tune', '2')
    if trials >= 0:
        (tmp_path / 'a.yaml').write_text(f'methods: [mmanet]\ntune: {trials}\n')
        with pytest.raises(UserError, match='tune: |--tune: expected 2 trials or more'):
            check('--grid', str(tmp_path / 'a.yaml'))


def test_a_data_root_is_there_unless_the_plan_lists_what_is_not(tmp_path):
    words = ['--methods', 'mmanet', '--datasets', 'arrays', '--data-root', str(tmp_path)]
    check(*words)
    gone = str(tmp_path / 'gone.npz')
    with pytest.raises(
        UserError, match='--data-root: expected a file or a folder, found no .*gone'
    ):
        check(*words, gone)
    check(*words, gone, '--dry-run')
    check('--list', '--data-root', gone)


def test_subsets_are_a_word_or_a_file(tmp_path):
    (tmp_path / 'list').write_text('rgb\n')
    for given in ('all', 'sampled:128', 'list:1,3', str(tmp_path / 'list'), ''):
        check('--methods', 'mmanet', f'--subsets={given}')
    for given in ('al', 'sampled', str(tmp_path)):
        told = r'--subsets: expected all, sampled:K .e.g. sampled:128. or a file with a subset'
        with pytest.raises(UserError, match=told):
            check('--methods', 'mmanet', '--subsets', given)


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--epochs', '5'],
         "'--epochs': it is a field of the protocol; type --cfg-options epochs=5"),
        (['--batch-size=8', '--jobs', '2'], 'type --cfg-options batch_size=8'),
        (['--lr', '--tune', '2'], 'type --cfg-options lr=VALUE'),
        (['--cfg-options', 'epochs=5', '--results', 'x', 'lr=3'],
         "unknown argument 'lr=3': KEY=VALUE stands directly after --cfg-options"),
        (['--seds', '1'], "'--seds'; did you mean '--seeds'"),
        # What is shortened may be misspelt as well.
        (['--seed', '1'], "'--seed'; did you mean '--seeds'"),
        (['--datase', 'synth_faces'], "'--datase'; did you mean '--datasets'"),
        (['--threads', 'x'], "--threads: expected a whole number, found 'x'; --help shows"),
        (['--jobs=1.5'], "--jobs: expected a whole number, found '1.5'"),
        (['--launcher', 'slrum'],
         "value of --launcher 'slrum'; did you mean 'slurm'? (known: local, slurm)"),
    ],
)  # fmt: skip
def test_a_word_that_is_no_argument_or_no_number_is_told(words, told):
    with pytest.raises(UserError) as error:
        run.parser().parse_args(['--methods', 'mmanet', *words])
    assert told in str(error.value)


@pytest.mark.parametrize('given', ['-1', '0,1,2', '0-2', 'x', '1.5', '1' * 19])
def test_seeds_are_whole_numbers_from_0_up(given):
    told = '--seeds: expected whole numbers from 0 up, separated by spaces, e.g. 0 1 2, found '
    with pytest.raises(UserError, match=f"^{told}'{given}'$"):
        check('--methods', 'mmanet', f'--seeds={given}')
    assert run.parser().parse_args(['--seeds', '0', '12']).seeds == [0, 12]


def test_seeds_of_a_grid_are_from_0_up(tmp_path):
    (tmp_path / 'a.yaml').write_text('methods: [mmanet]\nseeds: [0, -1]\n')
    told = 'a.yaml, line 2: expected whole numbers from 0 up, found -1'
    with pytest.raises(UserError, match=told):
        check('--grid', str(tmp_path / 'a.yaml'))


def test_numbers_of_processes_and_threads_have_a_least():
    for option, least in (('threads', 1), ('jobs', 1), ('workers', 0)):
        check('--methods', 'mmanet', f'--{option}={least}')
        with pytest.raises(UserError, match=f'--{option}: expected {least} or more, found -1'):
            check('--methods', 'mmanet', f'--{option}=-1')


def test_names_are_separated_by_spaces_and_files_come_with_a_name():
    for words, told in (
        (['mmanet,rfnet'], "unknown method 'mmanet,rfnet'; names are separated by spaces"),
        (['methods/rfnet.py'], 'methods/rfnet.py: expected FILE.py:NAME with the registered'),
        (['rfnet', '--datasets', 'arrays,folders'], "data set 'arrays,folders'; names are sep"),
        (['rfnet', '--datasets', 'mine/it.py'], 'mine/it.py: expected FILE.py:NAME'),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            check('--methods', *words)
        assert told in str(error.value)


def test_a_data_set_that_is_called_like_its_folder_is_told_of_its_layout(tmp_path, monkeypatch):
    (tmp_path / 'parts').mkdir()
    (tmp_path / 'scans.npz').touch()
    monkeypatch.chdir(tmp_path)
    for words, root in (
        (['parts', '--data-root', f'{tmp_path}/parts'], f'{tmp_path}/parts'),
        (['scans', '--data-root', 'scans.npz'], 'scans.npz'),
        (['parts'], 'parts'),
    ):
        told = (
            rf"found '{words[0]}', which .* --datasets arrays\|folders\|volumes --data-root {root}$"
        )
        with pytest.raises(UserError, match=told):
            check('--methods', 'rfnet', '--datasets', *words)
    with pytest.raises(UserError, match="unknown data set 'gone'"):
        check('--methods', 'rfnet', '--datasets', 'gone', '--data-root', f'{tmp_path}/parts')
