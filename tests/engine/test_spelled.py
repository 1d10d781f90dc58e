"""Options that are checked without an import are those of the constructors."""

import subprocess
import sys

import pytest

from benchmark.engine import spelled
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError
from benchmark.files import ROOT
from benchmark.options import options_of
from benchmark.registry import DATASETS, METHODS, discover

discover()
FOLDERS = {name: ROOT / name for name in ('methods', 'datasets')}


@pytest.mark.parametrize(
    ('registry', 'folder', 'shared', 'least'),
    [(METHODS, 'methods', {}, 0.8), (DATASETS, 'datasets', spelled.SHARED, 0.2)],
)
def test_what_a_file_states_is_what_its_class_has(registry, folder, shared, least):
    found = {name: spelled.stated(name, FOLDERS[folder]) for name in registry.module_dict}
    known = {name: hints for name, hints in found.items() if hints is not None}
    assert len(known) > least * len(found)
    for name, hints in known.items():
        options = options_of(registry.module_dict[name])
        assert {*shared, *hints} == {*options}
        assert all(hint in (None, options[key].hint) for key, hint in hints.items())
    assert any(hint is not None for hints in known.values() for hint in hints.values())


def test_the_fields_of_the_protocol_are_known():
    assert set(spelled.protocol_fields()) == {*Protocol.fields()}


WRONG = [
    (['rfnet:fuse_stat=0.1'], "unknown option of rfnet 'fuse_stat'; did you mean 'fuse_start'?"),
    (['rfnet:fuse_start=x'], "rfnet:fuse_start: expected a number, found 'x'"),
    (['rfnet:fuse_start'], "'rfnet:fuse_start': expected key=value after the colon"),
    (['rfnet', '--datasets', 'synth_faces:trian=3'], "unknown option of synth_faces 'trian'"),
    (['rfnet', '--cfg-options', 'epcohs=3'], "in --cfg-options 'epcohs'; did you mean 'epochs'?"),
    (['rfnet', '--cfg-options', 'synth_rooms.trian=3'], "did you mean 'synth_rooms.train'?"),
]


@pytest.mark.parametrize(('words', 'told'), WRONG)
def test_a_wrong_option_is_told_without_pytorch(words, told):
    program = (
        'import sys; from benchmark import run; status = run.main(sys.argv[1:]); '
        "print(status, 'torch' in sys.modules)"
    )
    command = [sys.executable, '-c', program, '--methods', *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '2 False\n'
    assert told in done.stderr
    assert done.stderr.count('\n') == 1


def checked(*methods, datasets=('synth_faces',), keys=()):
    spelled.check(methods, datasets, FOLDERS, keys)


def test_what_is_right_or_only_known_to_an_import_passes():
    checked('mmanet:alpha=4,synth_faces.alpha=30', 'modality_dropout')
    checked('rfnet:fuse_start=0.5,variant=official', 'mmanet', 'complete:no=1', 'a.py:rfnet:no=1')
    checked(datasets=('synth_faces:train=3', 'synth_rooms'), keys=('train', 'synth_rooms.lr', 'lr'))
    # The options of this data set stand in a base class.
    checked(datasets=('nyuv2:no=1',), keys=('no',))
    checked(datasets=('data.py:mine:no=1',), keys=('no',))
    with pytest.raises(UserError, match="'no'"):
        checked(keys=('no',))


def test_a_file_that_is_broken_or_needs_an_import_is_left_to_the_import(tmp_path):
    head = "from x import METHODS\n\n\n@METHODS.register_module('mine')\nclass Mine:\n"
    (tmp_path / 'mine.py').write_text(f'{head}    def (')
    assert spelled.stated('mine', tmp_path) is None
    body = "    def __init__(self, *, a: int = 1, b: float.bad = 2, c: {}['x'] = 3, d=4): pass\n"
    (tmp_path / 'mine.py').write_text(f'{head}{body}')
    assert spelled.stated('mine', tmp_path) == {'a': int, 'b': None, 'c': None, 'd': None}
    assert spelled.stated('yours', tmp_path) is None
