"""Output that is not read, has no room or vanishes: no command dies of it, and no file is lost."""

import os
import pty
import runpy
import signal
import subprocess
import sys

import pytest
from forks import get_ready, status_of, typed

from benchmark import streams
from benchmark.engine.hooks import Checkpoint
from benchmark.errors import UserError
from benchmark.files import ROOT

TINY = 'train=16 val=8 test=8 size=16 width=4 batch_size=8 epochs=1'
RUN = f'benchmark/run.py --datasets synth_faces --device cpu --methods hemis --cfg-options {TINY}'

COMMANDS = {
    'help': 'benchmark/run.py --help',
    'list': 'benchmark/run.py --list',
    'plan': f'{RUN} --results RESULTS/planned --dry-run',
    'run': f'{RUN} --results RESULTS',
    'tables': 'benchmark/tables.py RESULTS',
    'report': 'benchmark/report.py RESULTS',
    'check': 'datasets/prepare.py check --help',
    'preview': 'datasets/preview.py --help',
}

MEASURED = 'measuring  synth_faces  hemis\n'


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def full_disk():
    os.dup2(os.open('/dev/full', os.O_WRONLY), 1)


def both_full():
    full_disk()
    os.dup2(1, 2)


def vanished_terminal():
    ours, theirs = pty.openpty()
    os.dup2(theirs, 1)
    os.dup2(theirs, 2)
    save = Checkpoint._save

    def vanish(*arguments):
        Checkpoint._save = save
        os.close(ours)
        save(*arguments)

    Checkpoint._save = vanish


def not_there():
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None


NOWHERE = (both_full, vanished_terminal, not_there)


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    return tmp_path_factory.mktemp('work')


@pytest.fixture(scope='module')
def ended(work):
    """'output-command' -> exit status and standard error of a command of which nothing is read."""
    get_ready()
    cases = [(o, name) for o in (closed_pipe, full_disk) for name in COMMANDS]
    found = {}
    for output, name in [*cases, *((output, 'run') for output in NOWHERE)]:
        words = COMMANDS[name].replace('RESULTS', f'{work}/{output.__name__}').split()
        case = f'{output.__name__}-{name}'
        status = status_of(lambda o=output, w=words: (o(), typed(*w)), work / case)
        # A plan tells there what it measures, whoever reads it.
        found[case] = status, (work / case).read_text().removeprefix(MEASURED)
    return found


def files(results):
    """How many records there are, and which tables."""
    tables = {path.name for path in (results / 'tables').iterdir()}
    return len(list((results / 'runs').rglob('record.json'))), tables


WRITTEN = 1, {f'synth_faces.{suffix}' for suffix in ('md', 'tex', 'csv')}


def test_a_closed_pipe_ends_every_command_quietly(ended, work):
    found = {name: ended[f'closed_pipe-{name}'] for name in COMMANDS}
    assert found == dict.fromkeys(COMMANDS, (141, ''))
    assert files(work / 'closed_pipe') == WRITTEN


def test_a_full_device_is_one_line_and_every_file_is_written(ended, work):
    line = 'error: the output cannot be written: No space left on device\n'
    found = {name: ended[f'full_disk-{name}'] for name in COMMANDS}
    assert found == dict.fromkeys(COMMANDS, (1, line))
    assert files(work / 'full_disk') == WRITTEN


@pytest.mark.parametrize(('output', 'status'), [*zip(NOWHERE, (1, 1, 0), strict=True)])
def test_a_run_that_can_tell_nothing_records_everything(output, status, ended, work):
    assert ended[f'{output.__name__}-run'] == (status, '')
    assert files(work / output.__name__) == WRITTEN


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1'])
def test_a_terminal_that_is_not_utf_8_shows_a_table(encoding, tmp_path):
    with (tmp_path / 'shown').open('w', encoding=encoding) as file:
        terminal = streams.forgiving(file)
        print('90.1 ± 0.2 → 模', file=terminal, flush=True)
    shown = (tmp_path / 'shown').read_text(encoding=encoding)
    assert shown.startswith('90.1 ')
    assert shown.endswith(' 0.2 ? ?\n')


@pytest.mark.parametrize(
    'words',
    [
        'tables.py MODÈLE',
        'report.py MODÈLE',
        'plot.py MODÈLE',
        'show.py MODÈLE',
        'predict.py MODÈLE --out x',
        'export.py MODÈLE --out x --formats pt2',
        'compare.py MODÈLE.csv',
    ],
)
@pytest.mark.parametrize('encoding', ['ascii', 'cp1251'])
def test_every_command_tells_names_to_a_terminal_that_lacks_their_letters(
    encoding, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', words.split())
    with (tmp_path / 'shown').open('w', encoding=encoding) as file:
        for stream in ('stdout', 'stderr'):
            monkeypatch.setattr(sys, stream, file)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'benchmark' / sys.argv[0]), run_name='__main__')
    shown = (tmp_path / 'shown').read_text(encoding=encoding)
    assert ended.value.code == 2
    assert shown.startswith('error: ')
    assert 'MOD?LE' in shown


def test_a_pipe_that_does_not_block_takes_everything(tmp_path):
    code = f"""
import os, sys
sys.path[0] = {str(ROOT)!r}
from benchmark.streams import command
os.set_blocking(1, False)
command(lambda: print('x' * 10**6) or 0)
"""
    other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    assert other.stdout.read() == b'x' * 10**6 + b'\n'
    assert other.wait() == 0


def mistaken():
    raise UserError('no such file')


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ('main', 'status', 'told'),
    [
        (lambda: 1, 1, ''),
        (lambda: sys.exit(2), 2, ''),
        (mistaken, 2, 'error: no such file\n'),
        (interrupted, 130, '\ninterrupted; the same command goes on from here\n'),
    ],
)
def test_a_command_ends_with_its_status(main, status, told, capsys, monkeypatch):
    monkeypatch.setattr(streams, 'forgiving', lambda stream: stream)
    with pytest.raises(SystemExit) as ended:
        streams.command(main)
    assert (ended.value.code, capsys.readouterr().err) == (status, told)


@pytest.mark.parametrize('came', [True, False])
def test_an_error_that_an_interruption_causes_is_told_as_the_interruption(came):
    code = f"""
import os, signal, sys
sys.path[0] = {str(ROOT)!r}
from benchmark.streams import command

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores

def main():
    try:
        if {came}:
            os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    raise ImportError('half loaded')

command(main)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == (130 if came else 1)
    assert ('interrupted; the same command' in done.stderr) == came
    assert 'ImportError: half loaded' in done.stderr
    assert ('Traceback' in done.stderr) != came


def test_an_interruption_waits_for_the_end_of_a_block_in_which_libraries_are_imported():
    reached = []

    def act():
        signal.signal(signal.SIGINT, lambda *_: reached.append(1))
        with streams.uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            early = [*reached]
        return (early, reached) != ([], [1])

    assert status_of(act) == 0
