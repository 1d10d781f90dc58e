"""HD95 of a data set of volumes: from the headers of files to records and tables."""

import json
import shutil

import numpy as np
import pytest

nibabel = pytest.importorskip('nibabel')
pytest.importorskip('monai')

from benchmark import run, tables  # noqa: E402
from benchmark.engine.experiment import experiment  # noqa: E402
from benchmark.engine.plan import open_datasets  # noqa: E402
from benchmark.engine.protocol import Protocol  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.options import Spec  # noqa: E402
from benchmark.records import store, verification  # noqa: E402
from benchmark.records.schema import RecordError  # noqa: E402
from datasets import prepare  # noqa: E402
from datasets.volumes import OwnVolumes  # noqa: E402

SHAPE = (20, 18, 4)
SPACING = (1.5, 2.0, 3.0)


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A prepared root of six cases; the axes of one are stored in another order."""
    folder, rng = tmp_path_factory.mktemp('volumes'), np.random.default_rng(0)
    for k in range(6):
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:14, 3 + k : 10 + k, 1:3] = 1
        labels[6:9, 5 + k : 8 + k, 1:3] = 2
        for kind in ('flair', 't1', 'seg'):
            noise = rng.integers(1, 30, SHAPE)
            values = labels if kind == 'seg' else (100 + 80 * (labels > 0) + noise).astype(np.int16)
            affine = np.diag([*SPACING, 1])
            if k == 3:
                values, affine = values.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]
            file = folder / 'in' / f'p{k}' / f'{kind}.nii.gz'
            file.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), file)
    assert prepare.main(['volumes', str(folder / 'in'), str(folder / 'root')]) == 0
    return folder / 'root'


@pytest.fixture
def root(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / 'root')


@pytest.fixture(scope='module')
def results(sound, tmp_path_factory):
    """The folder of a run with distances."""
    folder = tmp_path_factory.mktemp('results')
    words = ['--methods', 'modality_dropout', '--datasets', 'volumes', '--data-root', str(sound)]
    words += ['--results', str(folder), '--device', 'cpu', '--workers', '0', '--cfg-options']
    assert run.main([*words, 'epochs=1', 'width=4', 'size=32x32', 'batch_size=4', 'hd95=true']) == 0
    return folder


def opened(root, **options):
    return OwnVolumes(root=str(root), size='32x32', **options)


def test_the_spacing_is_that_of_the_headers_in_the_order_of_slices(sound):
    data = opened(sound, hd95=True)
    split = data.split('test')
    slices, rows, columns = SPACING[2], SPACING[0], SPACING[1]
    assert (split.geometry.spacing == [slices, rows, columns]).all()
    extent = np.array(SHAPE) * SPACING
    assert split.geometry.diagonal == pytest.approx(np.full(len(split), np.linalg.norm(extent)))
    lines = (sound / 'spacing.txt').read_text().splitlines()
    assert lines == [f'p{k} 3 1.5 2' for k in range(6)]
    # Only the test measures it, and only if it was asked for.
    assert data.split('val').geometry is None
    assert opened(sound).split('test').geometry is None


def test_a_record_holds_it_and_its_outcomes_prove_it(results):
    file = next(results.rglob('record.json'))
    record = store.read(file)
    outcomes = store.read_outcomes(file.with_name('outcomes.npz'), record)
    assert record['dataset']['options']['hd95'] is True
    for subset, scores in record['scores']['test'].items():
        found = outcomes[f'hd95/{subset}']
        assert found.shape == (len(outcomes['name']), 2)
        assert scores['HD95_1'] == pytest.approx(found[:, 0].mean(dtype=float))
        assert scores['HD95'] == pytest.approx(found.mean(dtype=float), rel=1e-6)
        assert not any('HD95' in name for name in record['scores']['val'][subset])
    verification.check_fit(record, outcomes)
    assert verification.verified(record, outcomes)['scores']['test'] == record['scores']['test']
    subset = next(iter(record['scores']['test']))
    key = f'hd95/{subset}'
    with pytest.raises(RecordError, match='expected distances of the volumes tested'):
        verification.check_fit(record, {**outcomes, key: -outcomes[key] - 1})
    with pytest.raises(RecordError, match=f'HD95 of {subset} is .* in the record'):
        verification.verified(record, {**outcomes, key: outcomes[key] + 1})


def test_tables_print_millimetres(results, capsys):
    record = store.read(next(results.rglob('record.json')))
    scores = record['scores']['test']
    mean = np.mean([s['HD95'] for s in scores.values()])
    assert tables.main([str(results)]) == 0
    out = capsys.readouterr().out
    assert 'HD95 mm' in out
    assert f'{mean:.2f}' in out
    assert tables.main([str(results), '--metric', 'HD95_1']) == 0
    out = capsys.readouterr().out
    assert 'HD95_1 ↓ (mm)' in out
    assert f'{scores["flair+t1"]["HD95_1"]:.2f}' in out
    (written,) = results.glob('tables/*HD95_1.csv')
    worst = max(s['HD95_1'] for s in scores.values())
    assert f'{worst:.2f}' in ' '.join(f'{float(x):.2f}' for x in numbers(written.read_text()))
    text = written.with_suffix('.md').read_text()
    assert 'HD95_1 in millimetres, lower is better. It is the 95th percentile' in text


def numbers(text):
    for word in text.replace('\n', ',').split(','):
        try:
            yield float(word)
        except ValueError:
            continue


def test_without_it_records_keep_their_identity(sound, tmp_path):
    (plain,), (asked,) = (
        open_datasets(['volumes'], [sound], {'size': '32x32', **options})
        for options in ({}, {'hd95': 'true'})
    )
    assert 'hd95' not in plain.options
    assert asked.options == {**plain.options, 'hd95': True}
    assert asked.fingerprint != plain.fingerprint
    made = [
        experiment(Spec('hemis', ()), data, Protocol.build(data.recipe, {}, 'cpu'), 0, tmp_path)
        for data in (plain, asked)
    ]
    assert made[0].identity != made[1].identity
    (narrowed,) = open_datasets(
        ['volumes'], [sound], {'size': '32x32', 'hd95': 'true', 'modalities': 't1'}
    )
    assert narrowed.surfaces
    assert narrowed.split('test').geometry is not None
    assert json.dumps(made[0].header['dataset']['changed']) == '["size"]'


@pytest.mark.parametrize(
    ('edit', 'told'),
    [
        (lambda text: '', 'expected some lines'),
        (lambda text: text.replace('p2 3', 'p2 x'), "found 'p2 x 1.5 2'"),
        (lambda text: text.replace('p2 3', 'p2 0'), "found 'p2 0 1.5 2'"),
        (lambda text: text + 'p1 1 1 1\n', "one line for each case, found 'p1 1 1 1'"),
        (lambda text: text.replace('p', 'q'), 'found no line of case p'),
        (None, 'older versions did not keep it'),
    ],
)
def test_a_spacing_that_is_not_known_is_told(edit, told, root):
    file = root / 'spacing.txt'
    if edit:
        file.write_text(edit(file.read_text()))
    else:
        file.unlink()
    assert opened(root).split('test') is not None
    with pytest.raises(UserError, match=rf'spacing\.txt: .*{told}'):
        opened(root, hd95=True)
