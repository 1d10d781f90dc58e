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
    ],
)  # fmt: skip
def test_a_field_of_the_protocol_is_no_argument(words, told):
    with pytest.raises(UserError) as error:
        run.parser().parse_args(['--methods', 'mmanet', *words])
    assert told in str(error.value)
