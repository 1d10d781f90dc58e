"""`export.py`: networks for other runtimes, which give PyTorch's probabilities on every subset."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from toy_runs import arrays, trained

from benchmark import export
from benchmark.engine import exporting
from benchmark.engine.deployed import load
from benchmark.files import ROOT
from benchmark.missing import subset_masks

ONNX = all(importlib.util.find_spec(name) for name in exporting.PACKAGES)
needs_onnx = pytest.mark.skipif(not ONNX, reason=f'needs {", ".join(exporting.PACKAGES)}')


TINY = """
import torch
from torch import nn
from benchmark.method import Method
from benchmark.registry import METHODS

@METHODS.register_module('tiny')
class Tiny(Method):
    def __init__(self, task):
        super().__init__(task)
        sizes = {m.name: torch.Size(m.shape).numel() for m in task.modalities}
        self.heads = nn.ModuleDict({m: nn.Linear(n, len(task.classes)) for m, n in sizes.items()})

    def encode(self, inputs):
        return {m: self.heads[m](x.flatten(1)) for m, x in inputs.items()}

    def decode(self, features, mask):
        there = {m: mask[:, k, None] for k, m in enumerate(self.task.names)}
        return sum(torch.where(there[m], x, 0) for m, x in features.items())

    def loss(self, batch):
        return {'loss': self.task_loss(self.predict(batch.inputs, batch.mask), batch.target)}
"""
"""A method in a file of its own, which torch.export takes a second for."""


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    np.savez(folder / 'mine.npz', **arrays())
    (folder / 'tiny.py').write_text(TINY)
    return trained(folder, 'mine.npz', 'arrays', f'{folder / "tiny.py"}:tiny', 'logistic')


def padded(raw):
    """Sequences with the mark of padding, as exported networks take them."""
    gait = np.concatenate([raw['gait'], np.ones_like(raw['gait'][..., :1])], -1)
    for row, length in zip(gait, raw['length'], strict=True):
        row[length:] = 0
    return {'rgb': raw['rgb'], 'gait': gait, 'scan': raw['scan']}


def raw(count):
    given = arrays()
    found = {m: given[f'inputs/{m}'][:count].astype(np.float32) for m in ('rgb', 'gait', 'scan')}
    return padded({**found, 'length': given['length/gait'][:count]})


def agrees(model, run):
    """Compares an exported program with the model on every subset, with NaN where it is off."""
    for count, mask in enumerate(subset_masks(3), 1):
        values = raw(count)
        for name, there in zip(model.names, mask, strict=True):
            if not there:
                values[name][:] = np.nan
        masks = np.tile(mask, (count, 1))
        expected = model({m: x for m, x in values.items() if not np.isnan(x).any()})
        np.testing.assert_allclose(run(values, masks), expected, atol=1e-4)
    assert count == 7


@pytest.mark.parametrize('method', ['tiny', 'logistic'])
def test_torch_export_gives_the_model_s_probabilities(runs, tmp_path, method, capsys):
    words = [str(runs[method]), '--formats', 'pt2', '--out', str(tmp_path)]
    assert export.main(words) == 0
    told = capsys.readouterr().out
    assert f'written: {tmp_path / "model.pt2"}' in told
    assert 'on 7 subsets' in told
    program = torch.export.load(tmp_path / 'model.pt2').module()

    def run(values, masks):
        inputs = [*map(torch.from_numpy, values.values()), torch.from_numpy(masks)]
        # The reshaping in the linear method ties the program to one sample.
        size = 1 if 'one sample at a time' in told else len(masks)
        parts = [[x[k : k + size] for x in inputs] for k in range(0, len(masks), size)]
        return torch.cat([program(*part) for part in parts]).numpy()

    assert ('one sample at a time' in told) == (method == 'logistic')
    agrees(load(runs[method]), run)


@needs_onnx
def test_onnxruntime_gives_the_model_s_probabilities(runs, capsys):
    onnxruntime = pytest.importorskip('onnxruntime')
    words = ['--formats', 'onnx', '--method-file', str(runs['tiny'].parents[5] / 'tiny.py')]
    assert export.main([str(runs['tiny']), *words]) == 0
    file = runs['tiny'] / 'export' / 'model.onnx'
    session = onnxruntime.InferenceSession(file)
    assert [one.name for one in session.get_inputs()] == ['rgb', 'gait', 'scan', 'mask']
    properties = session.get_modelmeta().custom_metadata_map
    assert properties['modalities'] == 'rgb,gait,scan'
    assert properties['classes'] == 'cat\ndog\nhen'
    agrees(load(runs['tiny']), lambda v, masks: session.run(None, {**v, 'mask': masks})[0])


def test_a_program_that_gives_other_probabilities_is_refused(runs, tmp_path, monkeypatch, capsys):
    real = exporting.compared

    def off(whole, run, *more):
        return real(whole, lambda *values: run(*values) + 0.001, *more)

    monkeypatch.setattr(exporting, 'compared', off)
    assert export.main([str(runs['tiny']), '--formats', 'pt2', '--out', str(tmp_path)]) == 2
    assert 'expected the probabilities of PyTorch' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(runs, tmp_path, monkeypatch, capsys):
    cls = type(load(runs['tiny']).networks[''])

    def predict(self, inputs, mask):
        if inputs['scan'].sum() > 0:
            raise ValueError
        return self.decode(self.encode(inputs), mask)

    monkeypatch.setattr(cls, 'predict', predict)
    assert export.main([str(runs['tiny']), '--formats', 'pt2', '--out', str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'tiny: cannot be exported by torch.export' in line


@needs_onnx
def test_what_onnx_lacks_is_one_line_that_names_the_operator(runs, capsys):
    assert export.main([str(runs['logistic']), '--formats', 'onnx']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: logistic: cannot be exported to ONNX: No ONNX function found')
    assert 'lshift' in line
    assert line.endswith('; use --formats pt2')
    assert line.isprintable()


def test_packages_that_lack_are_named(runs, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else real(name)
    )
    assert export.main([str(runs['tiny'])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'onnxscript: run pip install ".[export]", or use --formats pt2' in line


def test_a_run_of_an_older_version_is_one_line(runs, tmp_path, capsys):
    folder = shutil.copytree(runs['tiny'], tmp_path / 'run')
    (folder / 'model.json').unlink()
    assert export.main([str(folder), '--formats', 'pt2']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'found a run of an older version' in line


def test_help_needs_no_torch():
    code = 'import sys, benchmark.export; sys.exit(bool({"torch", "mmengine"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0
