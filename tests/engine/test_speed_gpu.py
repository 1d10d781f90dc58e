"""What is measured on a GPU alone: the arithmetic of the roofline, and that all of it runs."""

import pytest
import torch
from torch import nn

from benchmark import speed
from benchmark.engine.building import Machine
from benchmark.engine.speed import on_gpu, report
from benchmark.engine.speed.measuring import TINY, Row
from benchmark.engine.speed.on_gpu import Bound
from benchmark.registry import discover


def test_an_operation_needs_the_longer_of_its_arithmetic_and_its_bytes():
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    flops, moved = 2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4)
    with Bound(1.0, 1e9) as arithmetic:
        a @ b
    with Bound(1e9, 1.0) as memory:
        a @ b
    assert (arithmetic.flops, arithmetic.bytes, arithmetic.seconds) == (flops, 0, flops)
    assert (memory.flops, memory.bytes, memory.seconds) == (flops, moved, moved)


def test_looking_at_memory_in_another_way_takes_no_time_and_writing_in_place_does():
    x = torch.randn(6, 4)
    with Bound(1e9, 1.0) as views:
        x.t().reshape(-1)[:0].view(0, 2)
        x.view(4, 6)[1:]
    with Bound(1e9, 1.0) as written:
        x.add_(1)
    # The transposed matrix is copied once by the reshape: 24 numbers read and written.
    assert views.seconds == 2 * 24 * 4
    assert written.seconds == 24 * 4


def test_a_convolution_and_its_gradients_are_counted():
    conv, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.randn(2, 3, 8, 8)
    with Bound(1.0, 1e9) as forward:
        y = conv(x)
    once = 2 * 2 * 5 * 3 * 9 * 64
    assert forward.flops == once
    with Bound(1.0, 1e9) as backward:
        y.sum().backward()
    assert backward.flops == once  # of the weights; the input needs none


@pytest.mark.parametrize('job', ['precision', 'repeatable', 'roofline', 'compiling'])
def test_what_only_a_gpu_tells_runs(job, tmp_path, monkeypatch):
    monkeypatch.setattr('benchmark.engine.speed.trainings.compiled', lambda method: [])
    discover()
    rows = getattr(on_gpu, job)(TINY, tmp_path)
    assert len(rows) == (2 if job == 'compiling' else 3)
    assert all(min(row.values) > 0 and row.note for row in rows)


def test_a_gpu_has_a_table_of_its_own_which_says_what_an_interrupted_one_lacks(
    monkeypatch, tmp_path
):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(
        report, '_alone', lambda *_: {'one': lambda: Row('row', [1.0]), 'two': stop}
    )
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'GPU X')
    monkeypatch.setattr(report, 'use_threads', lambda *_: None)
    monkeypatch.setattr(report, 'compute_on', lambda _: None)
    monkeypatch.setattr(report, 'machine', lambda: Machine('cuda'))
    with pytest.raises(KeyboardInterrupt):
        report.write(tmp_path / 'a.md', True, True, 'cuda')
    text = (tmp_path / 'a.md').read_text()
    assert 'speed.py --device cuda --quick --alone` from commit ' in text
    assert ', GPU X.' in text
    assert '| row | 1.00 |' in text
    assert '| two | the measurement ended before it |' in text
    assert '| one |' not in text
    assert '| several GPUs |' in text
    assert '| `--jobs 16` on one GPU | left out by `--alone` |' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_told(capsys):
    assert speed.main(['--device', 'cuda']) == 2
    assert capsys.readouterr().err.count('\n') == 1
