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


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    np.savez(folder / 'mine.npz', **arrays())
    options = ['modalities=gait+scan']  # convolutions take torch.export many seconds
    return trained(folder, 'mine.npz', 'arrays', 'hemis', 'logistic', options=options)


def padded(raw):
    """Sequences with the mark of padding, as exported networks take them."""
    gait = np.concatenate([raw['gait'], np.ones_like(raw['gait'][..., :1])], -1)
    for row, length in zip(gait, raw['length'], strict=True):
        row[length:] = 0
    return {'gait': gait, 'scan': raw['scan']}


def raw(count):
    given = arrays()
    found = {m: given[f'inputs/{m}'][:count].astype(np.float32) for m in ('gait', 'scan')}
    return padded({**found, 'length': given['length/gait'][:count]})


def agrees(model, run):
    """Compares an exported program with the model on every subset, with NaN where it is off."""
    for count, mask in enumerate(subset_masks(2), 1):
        values = raw(count)
        for name, there in zip(model.names, mask, strict=True):
            if not there:
                values[name][:] = np.nan
        masks = np.tile(mask, (count, 1))
        expected = model({m: x for m, x in values.items() if not np.isnan(x).any()})
        np.testing.assert_allclose(run(values, masks), expected, atol=1e-4)
    assert count == 3


@pytest.mark.parametrize('method', ['hemis', 'logistic'])
def test_the_program_of_torch_export_gives_the_model_s_probabilities(
    runs, tmp_path, method, capsys
):
    words = [str(runs[method]), '--formats', 'pt2', '--out', str(tmp_path)]
    assert export.main(words) == 0
    told = capsys.readouterr().out
    assert f'written: {tmp_path / "model.pt2"}' in told
    assert 'on 3 subsets' in told
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
    assert export.main([str(runs['hemis']), '--formats', 'onnx']) == 0
    file = runs['hemis'] / 'export' / 'model.onnx'
    session = onnxruntime.InferenceSession(file)
    assert [one.name for one in session.get_inputs()] == ['gait', 'scan', 'mask']
    properties = session.get_modelmeta().custom_metadata_map
    assert properties['modalities'] == 'gait,scan'
    assert properties['classes'] == 'cat\ndog\nhen'
    agrees(load(runs['hemis']), lambda v, masks: session.run(None, {**v, 'mask': masks})[0])


def test_a_program_that_gives_other_probabilities_is_refused(runs, tmp_path, monkeypatch, capsys):
    real = exporting.compared

    def off(whole, run, *more):
        return real(whole, lambda *values: run(*values) + 0.001, *more)

    monkeypatch.setattr(exporting, 'compared', off)
    assert export.main([str(runs['hemis']), '--formats', 'pt2', '--out', str(tmp_path)]) == 2
    assert 'expected the probabilities of PyTorch' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(runs, tmp_path, monkeypatch, capsys):
    cls = type(load(runs['hemis']).networks[''])

    def predict(self, inputs, mask):
        if inputs['scan'].sum() > 0:
            raise ValueError
        return self.decode(self.encode(inputs), mask)

    monkeypatch.setattr(cls, 'predict', predict)
    assert export.main([str(runs['hemis']), '--formats', 'pt2', '--out', str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'hemis: cannot be exported by torch.export' in line


def test_a_network_that_mixes_its_batch_is_exported_for_one_sample(runs, tmp_path, capsys):
    model = load(runs['hemis'])
    network = model.networks['']
    real = type(network).predict

    def predict(inputs, mask):
        if len(mask) not in (1, 5):
            raise ValueError
        return real(network, inputs, mask)

    network.predict = predict
    (found,) = exporting.export(model, tmp_path, ('pt2',))
    assert found.single
    assert found.subsets == 3
    program = torch.export.load(found.file).module()
    values, mask = raw(1), torch.ones(1, 2, dtype=torch.bool)
    shown = program(*map(torch.from_numpy, values.values()), mask).numpy()
    np.testing.assert_allclose(shown, model(values), atol=1e-4)


def test_packages_that_lack_are_named(runs, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else real(name)
    )
    assert export.main([str(runs['hemis'])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'onnxscript: run pip install ".[export]", or use --formats pt2' in line


def test_a_run_of_an_older_version_is_one_line(runs, tmp_path, capsys):
    folder = shutil.copytree(runs['hemis'], tmp_path / 'run')
    (folder / 'model.json').unlink()
    assert export.main([str(folder), '--formats', 'pt2']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'found a run of an older version' in line


def test_help_needs_no_torch():
    code = 'import sys, benchmark.export; sys.exit(bool({"torch", "mmengine"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0
