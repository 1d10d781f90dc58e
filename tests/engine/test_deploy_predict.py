"""`predict.py`: files of predictions in the input's own geometry, and scores without training."""

import csv
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_runs import arrays, trained

from benchmark import predict
from benchmark.engine import prediction
from benchmark.engine.deployed import load
from benchmark.errors import UserError
from benchmark.files import ROOT
from benchmark.records import store
from datasets import prepare
from datasets.common.io.nifti import grid, load_volume

nibabel = pytest.importorskip('nibabel')


def table(folder):
    with (folder / 'predictions.csv').open() as file:
        return {row['id']: row for row in csv.DictReader(file)}


@pytest.fixture(scope='module')
def vectors(tmp_path_factory):
    """Method -> run on arrays."""
    folder = tmp_path_factory.mktemp('arrays')
    np.savez(folder / 'mine.npz', **arrays())
    return trained(folder, 'mine.npz', 'arrays', 'hemis', 'logistic')


def unlabelled(folder, *without, **more):
    """Saves the test samples of `arrays` as a user has them: no target, no split."""
    given = arrays()
    rows = given['split'] == 2
    keys = [
        k for k in given if k.startswith(('inputs', 'length')) and k.split('/')[1] not in without
    ]
    np.savez(folder / 'new.npz', **{k: given[k][rows] for k in keys}, **more)
    return str(folder / 'new.npz')


@pytest.mark.parametrize('method', ['hemis', 'logistic'])
def test_unlabelled_arrays_get_the_probabilities_of_the_run(vectors, tmp_path, method):
    run = vectors[method]
    assert predict.main([str(run), unlabelled(tmp_path), '--out', str(tmp_path / 'out')]) == 0
    rows = table(tmp_path / 'out').values()
    logits = store.read_outcomes(run / store.OUTCOMES)['logit/rgb+gait+scan'].astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found = [[float(row[f'p({name})']) for name in ('cat', 'dog', 'hen')] for row in rows]
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), atol=2e-3)
    for row, p in zip(rows, found, strict=True):
        assert row['prediction'] == ('cat', 'dog', 'hen')[int(np.argmax(p))]
        assert row['modalities'] == 'rgb+gait+scan'


def test_a_modality_that_is_off_lacks_or_is_not_available_is_not_used(vectors, tmp_path, capsys):
    run, outs = str(vectors['hemis']), []
    gone = np.array([[True, True, k % 2 == 0] for k in range(12)])
    for name, lacking, keys, words in (
        ('off', [], {}, ['--without', 'scan']),
        ('lacks', ['scan'], {}, []),
        ('half', [], {'available': gone}, []),
    ):
        data = unlabelled(tmp_path, *lacking, **keys)
        assert predict.main([run, data, '--out', str(tmp_path / name), *words]) == 0
        outs.append(table(tmp_path / name))
    off, lacks, half = outs
    assert off == lacks
    assert {row['modalities'] for row in off.values()} == {'rgb+gait'}
    for k, (name, row) in enumerate(half.items()):
        assert (row['modalities'] == 'rgb+gait') == (k % 2 == 1)
        assert (row == off[name]) == (k % 2 == 1)
    assert '12 samples predicted: 6 from rgb+gait, 6 from rgb+gait+scan' in capsys.readouterr().out


def test_names_of_samples_and_classes_are_no_formulas_in_the_table(vectors, tmp_path):
    model = load(vectors['hemis'])
    names = ('-2+3', '+4|x', 'cat')
    model.task = dataclasses.replace(model.task, classes=names)
    request = prediction.Request(Path(unlabelled(tmp_path)), '', (), 0)
    unseen = prediction.opened(model.card, request, False)
    ids = np.array([f'=1+{name}' for name in unseen.split.ids])
    unseen = unseen._replace(split=dataclasses.replace(unseen.split, ids=ids))
    prediction.predict(model, unseen, tmp_path / 'out', 0)
    rows = table(tmp_path / 'out')
    assert list(rows) == [f"'{name}" for name in ids]
    assert {row['prediction'] for row in rows.values()} <= {"'-2+3", "'+4|x", 'cat'}
    assert {f'p({name})' for name in names} <= set(rows["'=1+row-0"])


def test_evaluate_gives_the_scores_of_the_record(vectors, tmp_path):
    run = vectors['hemis']
    record = store.read(run / store.RECORD)
    data = run.parents[5] / 'mine.npz'
    model = load(run)
    unseen = prediction.opened(model.card, prediction.Request(data, '', (), 0), True)
    found = prediction.evaluate(model, unseen.split, 0)
    assert {s: score.metrics for s, score in found.items()} == record['scores']['test']
    assert {s: score.n for s, score in found.items()} == record['n']['test']


def test_evaluate_prints_and_writes_the_subsets_that_are_asked_for(vectors, tmp_path, capsys):
    run = vectors['logistic']
    words = [str(run), str(run.parents[5] / 'mine.npz'), '--evaluate', '--split', 'all']
    assert predict.main([*words, '--without', 'rgb', '--out', str(tmp_path)]) == 0
    told = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / 'scores.csv').open()))
    assert [(row['subset'], row['n']) for row in rows] == [
        ('gait', '36'), ('scan', '36'), ('gait+scan', '36')
    ]  # fmt: skip
    for row in rows:
        assert f'{100 * float(row["accuracy"]):.2f}' in told


def test_embedded_data_are_scored_without_a_path(tmp_path):
    options = ['train=16', 'val=8', 'test=8', 'size=24', 'batch_size=8']
    run = trained(tmp_path, '', 'synth_faces', 'hemis', options=options)['hemis']
    model = load(run)
    unseen = prediction.opened(model.card, prediction.Request(None, '', (), 0), True)
    found = prediction.evaluate(model, unseen.split, 0)
    record = store.read(run / store.RECORD)
    assert {s: score.metrics for s, score in found.items()} == record['scores']['test']


SIZE = (40, 48)


@pytest.fixture(scope='module')
def rooms(tmp_path_factory):
    """Run on image folders with label maps, which training resizes to 32x32."""
    folder, rng = tmp_path_factory.mktemp('rooms'), np.random.default_rng(0)
    samples = [f'{split}/r{k}' for split in ('train', 'val', 'test') for k in range(4)]
    for sample in samples:
        label = np.repeat(np.repeat(rng.integers(0, 2, (5, 6)), 8, 0), 8, 1)
        noise = rng.integers(0, 60, (*SIZE, 3))
        images = {
            'rgb': (noise + 150 * label[..., None]).astype(np.uint8),
            'depth': (1000 + 3000 * label + noise[..., 0]).astype(np.uint16),
            'labels': (255 * label).astype(np.uint8),
        }
        for kind, values in images.items():
            path = folder / 'rooms' / kind / f'{sample}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    options = ['size=32x32', 'nearest=depth', 'binary=true']
    return trained(folder, 'rooms', 'folders', 'hemis', options=options)['hemis']


def test_label_maps_of_new_images_are_as_large_as_the_images(rooms, tmp_path, capsys):
    source = rooms.parents[5] / 'rooms'
    new = tmp_path / 'new'
    for kind in ('rgb', 'depth'):
        shutil.copytree(source / kind / 'test', new / kind)
    (new / 'depth' / 'r2.png').unlink()
    assert predict.main([str(rooms), str(new), '--out', str(tmp_path / 'out')]) == 0
    assert '1 of 4 samples lacks depth' in capsys.readouterr().out
    rows = table(tmp_path / 'out')
    assert {k: row['modalities'] for k, row in rows.items()} == {
        'r0': 'depth+rgb', 'r1': 'depth+rgb', 'r2': 'rgb', 'r3': 'depth+rgb'
    }  # fmt: skip
    model, image = load(rooms), {}
    for kind, resample in (('rgb', Image.BILINEAR), ('depth', Image.NEAREST)):
        with Image.open(source / kind / 'test' / 'r1.png') as opened:
            values = np.atleast_3d(np.asarray(opened)).astype(np.float32).transpose(2, 0, 1)
        image[kind] = np.stack(
            [Image.fromarray(channel).resize((32, 32), resample) for channel in values]
        )
    with Image.open(tmp_path / 'out' / rows['r1']['file']) as opened:
        shown = np.asarray(opened)
    assert shown.shape == SIZE
    assert set(np.unique(shown)) <= {0, 255}
    maps = Image.fromarray((model(image).argmax(0) * 255).astype(np.uint8))
    np.testing.assert_array_equal(shown, np.asarray(maps.resize(SIZE[::-1], Image.NEAREST)))


def test_image_folders_are_scored_as_in_the_record(rooms):
    model = load(rooms)
    request = prediction.Request(rooms.parents[5] / 'rooms', '', (), 0)
    found = prediction.evaluate(model, prediction.opened(model.card, request, True).split, 0)
    record = store.read(rooms / store.RECORD)
    assert {s: score.metrics for s, score in found.items()} == record['scores']['test']


def copied(rooms, folder):
    """Returns a copy of the test samples of `rooms`, with their label maps."""
    for kind in ('rgb', 'depth', 'labels'):
        shutil.copytree(rooms.parents[5] / 'rooms' / kind / 'test', folder / kind)
    return folder


def pixels(file):
    with Image.open(file) as opened:
        return np.asarray(opened)


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        (lambda x: (x / 65535).astype(np.float32), 'floating-point numbers'),
        (lambda x: (x // 16).astype(np.uint8), 'whole numbers of 8 bits'),
    ],
)
@pytest.mark.parametrize('words', [['--evaluate'], ['--out', 'out']])
def test_images_hold_numbers_as_in_the_training(rooms, tmp_path, capsys, change, found, words):
    new = copied(rooms, tmp_path)
    file = new / 'depth' / 'r2.png'
    np.save(file.with_suffix('.npy'), change(pixels(file)))
    file.unlink()
    assert predict.main([str(rooms), str(new), *words]) == 2
    expected = 'r2.npy: expected whole numbers of 16 bits as depth had in the training, found '
    assert expected + found in capsys.readouterr().err


def test_a_run_that_kept_no_type_of_numbers_compares_the_new_images_alone(rooms, tmp_path):
    new, card = copied(rooms, tmp_path), load(rooms).card
    older = {
        m: {k: v for k, v in facts.items() if k != 'numbers'}
        for m, facts in card.intake.preparation.items()
    }
    older = card._replace(intake=card.intake._replace(preparation=older))
    request = prediction.Request(new, '', (), 0)
    notes = prediction.opened(older, request, True).notes
    (note,) = notes
    assert note.endswith(': depth whole numbers of 16 bits, rgb whole numbers of 8 bits')
    file = new / 'depth' / 'r2.png'
    Image.fromarray((pixels(file) // 16).astype(np.uint8)).save(file)
    with pytest.raises(UserError, match='expected whole numbers of 16 bits like r0.png, found'):
        prediction.opened(older, request, True)


def test_label_maps_are_as_large_as_the_images_to_score(rooms, tmp_path, capsys):
    new = copied(rooms, tmp_path)
    file = new / 'labels' / 'r1.png'
    Image.fromarray(pixels(file)[:30, :30]).save(file)
    assert predict.main([str(rooms), str(new), '--evaluate']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'r1.png: expected a label map as large as an image of its sample' in line
    assert line.endswith('(depth (40, 48), rgb (40, 48)), found (30, 30)')


def test_a_list_that_names_a_sample_twice_is_refused(rooms, tmp_path, capsys):
    new = copied(rooms, tmp_path)
    (new / 'test.txt').write_text('r0\nr1\nr3\n')
    request = prediction.Request(new, '', (), 0)
    assert prediction.opened(load(rooms).card, request, True).split.ids.tolist() == [
        'r0', 'r1', 'r3'
    ]  # fmt: skip
    (new / 'test.txt').write_text('r0\nr1\nr0.png\n')
    assert predict.main([str(rooms), str(new), '--evaluate']) == 2
    assert f"{new}: sample 'r0' is in test, twice" in capsys.readouterr().err


def test_new_images_that_name_other_splits_alone_are_not_all_taken_for_the_test(rooms, tmp_path):
    new, card = copied(rooms, tmp_path), load(rooms).card
    request = prediction.Request(new, '', (), 0)
    assert len(prediction.opened(card, request, True).split) == 4
    (new / 'train.txt').write_text('r0\nr1\n')
    expected = r'expected all samples in sub-folders .* a list test.txt .* --split all takes all'
    with pytest.raises(UserError, match=expected):
        prediction.opened(card, request, True)
    assert len(prediction.opened(card, request._replace(part='all'), True).split) == 4
    assert len(prediction.opened(card, request._replace(part='train'), True).split) == 2
    (new / 'train.txt').unlink()
    for kind in ('rgb', 'depth', 'labels'):
        (new / kind / 'train').mkdir()
        (new / kind / 'r0.png').rename(new / kind / 'train' / 'r0.png')
    with pytest.raises(UserError, match=expected):
        prediction.opened(card, request, True)


def test_label_maps_without_a_labelled_pixel_give_no_score(rooms, tmp_path):
    given = load(rooms).card
    options = {**given.intake.options, 'binary': False}
    card = given._replace(intake=given.intake._replace(options=options))
    new = copied(rooms, tmp_path)
    for k in range(4):
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(new / 'labels' / f'r{k}.png')
    request = prediction.Request(new, '', (), 0)
    with pytest.raises(UserError, match='expected some labelled pixel in the samples to score'):
        prediction.opened(card, request, True)
    assert prediction.opened(card, request, False).split.target.shape == (4, 32, 32)
    values = np.full(SIZE, 255, np.uint8)
    values[:4, :4] = 1
    Image.fromarray(values).save(new / 'labels' / 'r3.png')
    assert len(prediction.opened(card, request, True).split) == 4
    # The sample with the labels is not scored where none of its modalities may be used.
    (new / 'depth' / 'r3.png').unlink()
    with pytest.raises(UserError, match='expected some labelled pixel'):
        prediction.opened(card, request._replace(without=['rgb']), True)


def test_a_folder_that_is_no_modality_is_named_and_a_misspelt_one_refused(rooms, tmp_path):
    new, card = copied(rooms, tmp_path / 'new'), load(rooms).card
    (new / 'thermal').mkdir()
    (new / 'notes.txt').write_text('taken in May\n')
    request = prediction.Request(new, '', (), 0)
    assert prediction.opened(card, request, False).notes == ['left aside: notes.txt, thermal']
    (new / 'depth').rename(new / 'dpeth')
    with pytest.raises(UserError, match=f"^{new}: expected depth, found 'dpeth'; did you mean"):
        prediction.opened(card, request, False)
    (new / 'depth').mkdir()  # an empty folder is no modality either
    with pytest.raises(UserError, match="found 'dpeth'"):
        prediction.opened(card, request, False)
    (new / 'dpeth').rename(new / 'distances')
    assert prediction.opened(card, request, False).notes == [
        '4 of 4 samples lack depth', 'left aside: distances, notes.txt, thermal'
    ]  # fmt: skip


def test_the_samples_of_other_splits_are_counted(rooms, vectors, tmp_path, capsys):
    told = '4 samples of split test; 8 others left out (--split all)'
    request = prediction.Request(rooms.parents[5] / 'rooms', '', (), 0)
    card = load(rooms).card
    assert told in prediction.opened(card, request, False).notes
    assert told.replace('test', 'val') in prediction.opened(
        card, request._replace(part='val'), True
    ).notes  # fmt: skip
    every = prediction.opened(card, request._replace(part='all'), False)
    assert len(every.split) == 12
    assert not any('others' in note for note in every.notes)
    run = vectors['logistic']
    words = [str(run), str(run.parents[5] / 'mine.npz'), '--out', str(tmp_path)]
    assert predict.main(words) == 0
    assert '12 samples of split test; 24 others left out (--split all)' in capsys.readouterr().out


def test_an_input_that_is_called_nearly_like_a_modality_is_refused(vectors, tmp_path):
    card, given = load(vectors['hemis']).card, arrays()

    def told(**names):
        keys = {f'inputs/{names.get(m, m)}': given[f'inputs/{m}'] for m in ('rgb', 'gait', 'scan')}
        kinds = {f'kind/{names.get("gait", "gait")}': np.array('sequence')}
        np.savez(tmp_path / 'new.npz', **keys, **kinds)
        request = prediction.Request(tmp_path / 'new.npz', '', (), 0)
        return prediction.opened(card, request, False).notes

    for misspelt in ('scans', 'SCAN', 'sacn'):
        with pytest.raises(UserError, match=f"inputs/: expected scan, found '{misspelt}'; did you"):
            told(scan=misspelt)
    assert told(scan='scan2') == [
        f'{tmp_path / "new.npz"}: left aside: inputs/scan2, which the network does not use'
    ]


AFFINES = (
    np.diag([1.0, 1, 1, 1]),
    np.array([[0, -1.0, 0, 9], [0, 0, 2, -3], [-1, 0, 0, 5], [0, 0, 0, 1]]),
)
"""From voxels to millimetres: as the project stores volumes, and with turned and mirrored axes."""


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    """Run on volumes, half of which have turned axes, and the folder of their NIfTI files."""
    folder, rng = tmp_path_factory.mktemp('scans'), np.random.default_rng(0)
    for k in range(8):
        shape = (36, 30, 3) if k % 2 == 0 else (3, 36, 30)
        label = np.zeros(shape, np.uint8)
        label[tuple(slice(n // 4, n // 2 + 1) for n in shape)] = 1
        for kind in ('flair', 't1', 'seg'):
            values = label if kind == 'seg' else rng.normal(size=shape) + 5 * label + 20
            path = folder / 'source' / f'case{k}' / f'{kind}.nii.gz'
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(values.astype(np.float32), AFFINES[k % 2])
            nibabel.save(image, path)
    source, root = folder / 'source', folder / 'scans'
    assert prepare.main(['volumes', str(source), str(root)]) == 0
    return trained(folder, 'scans', 'volumes', 'hemis', options=['size=32x32'])['hemis']


def test_volumes_lie_where_their_inputs_lie(scans, tmp_path):
    source, out = scans.parents[5] / 'source', tmp_path / 'out'
    new = shutil.copytree(source, tmp_path / 'new', ignore=shutil.ignore_patterns('seg*'))
    assert predict.main([str(scans), str(new), '--out', str(out)]) == 0
    words = [str(scans), str(scans.parents[5] / 'scans'), '--split', 'test', '--out']
    assert predict.main([*words, str(tmp_path / 'prepared')]) == 0
    rows, prepared = table(out), table(tmp_path / 'prepared')
    assert len(rows) == 8
    for case, row in rows.items():
        file, like = out / row['file'], source / case / 't1.nii.gz'
        shown, given = nibabel.load(file), nibabel.load(like)
        assert shown.shape == given.shape
        assert shown.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(shown.affine, given.affine)
        assert not grid(file).differs(grid(like))
        assert 0 < load_volume(file).mean() < 1
    # Cases from the prepared root, whose arrays lie in one orientation, tell where each voxel is.
    for case, row in prepared.items():
        found = np.load(tmp_path / 'prepared' / row['file'])
        np.testing.assert_array_equal(load_volume(out / rows[case]['file']), found)


def test_volumes_are_scored_as_in_the_record(scans, tmp_path):
    record = store.read(scans / store.RECORD)
    names = store.read_outcomes(scans / store.OUTCOMES)['name']
    for case in names:
        shutil.copytree(scans.parents[5] / 'source' / case, tmp_path / 'new' / case)
    model = load(scans)
    request = prediction.Request(tmp_path / 'new', '', (), 0)
    found = prediction.evaluate(model, prediction.opened(model.card, request, True).split, 0)
    assert {s: score.metrics for s, score in found.items()} == record['scores']['test']


def test_a_case_has_one_folder_and_one_file_of_a_modality(scans, tmp_path):
    source, new = scans.parents[5] / 'source', tmp_path / 'new'
    shutil.copytree(source / 'case0', new / 'case0')
    card, request = load(scans).card, prediction.Request(new, '', (), 0)
    shutil.copy(source / 'case1' / 't1.nii.gz', new / 'case0' / '._t1.nii.gz')
    shutil.copy(source / 'case1' / 't1.nii.gz', new / 'case0' / 'T2.nii.gz')
    found = prediction.opened(card, request, False)
    assert found.notes == ['left aside: case0/._t1.nii.gz, case0/T2.nii.gz']
    shutil.copy(source / 'case1' / 't1.nii.gz', new / 'case0' / 'case0_t1.nii.gz')
    with pytest.raises(UserError, match='case case0: expected one t1, found .* and .*t1.nii.gz'):
        prediction.opened(card, request, False)
    (new / 'case0' / 'case0_t1.nii.gz').unlink()
    shutil.copytree(source / 'case1', new / 'other' / 'case0')
    with pytest.raises(UserError, match='expected one folder of case case0, found .*other/case0'):
        prediction.opened(card, request, False)


def rewritten(file, change):
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), file)


def test_new_volumes_are_refused_and_named_where_a_preparation_would_do_so(scans, tmp_path):
    source, new = scans.parents[5] / 'source', tmp_path / 'new'
    shutil.copytree(source / 'case0', new / 'case0')
    model, request = load(scans), prediction.Request(new, '', (), 0)
    label = load_volume(new / 'case0' / 'seg.nii.gz').transpose(1, 2, 0)
    rewritten(new / 'case0' / 't1.nii.gz', lambda x: np.where(label > 0, np.nan, x))
    every = np.arange(3)
    assert np.isfinite(
        prediction.opened(model.card, request, False).split.inputs['t1'][every]
    ).all()
    with pytest.raises(UserError, match='t1.nii.gz: expected numbers in the labelled voxels'):
        prediction.evaluate(model, prediction.opened(model.card, request, True).split, 0)
    rewritten(new / 'case0' / 'seg.nii.gz', lambda x: 0 * x)
    with pytest.raises(UserError, match='labelled pixel .* found no label of a region everywhere'):
        prediction.opened(model.card, request, True)
    for kind in ('t1', 'flair', 'seg'):
        file = new / 'case0' / f'{kind}.nii.gz'
        np.save(new / 'case0' / f'{kind}.npy', load_volume(file))
        file.unlink()
    (note,) = prediction.opened(model.card, request, False).notes
    assert note.startswith('1 of 1 cases are .npy files, which do not say their orientation')


def test_a_volume_that_is_called_nearly_like_a_modality_is_refused(scans, tmp_path):
    new, card = shutil.copytree(scans.parents[5] / 'source', tmp_path / 'new'), load(scans).card
    request = prediction.Request(new, '', (), 0)
    (new / 'case3' / 't1.nii.gz').rename(new / 'case3' / 't2.nii.gz')
    assert prediction.opened(card, request, False).notes == [
        '1 of 8 cases lacks t1', 'left aside: case3/t2.nii.gz'
    ]  # fmt: skip
    (new / 'case4' / 'flair.nii.gz').rename(new / 'case4' / 'FLAIR.nii.gz')
    told = "case case4: expected flair, found 'FLAIR'; did you mean 'flair'"
    with pytest.raises(UserError, match=told):
        prediction.opened(card, request, False)
    (new / 'case4' / 'FLAIR.nii.gz').rename(new / 'case4' / 'case4_falir.nii.gz')
    with pytest.raises(UserError, match="case case4: expected flair, found 'falir'"):
        prediction.opened(card, request, False)
    with pytest.raises(UserError, match=r't1.nii.gz: expected a folder, found a file'):
        prediction.opened(card, request._replace(root=new / 'case0' / 't1.nii.gz'), False)


def test_the_folder_of_a_case_may_be_the_place_where_the_command_runs(scans, monkeypatch):
    monkeypatch.chdir(scans.parents[5] / 'source' / 'case0')
    request = prediction.Request(Path('.'), '', (), 0)
    found = prediction.opened(load(scans).card, request, False)
    assert set(found.split.groups) == {'case0'}


WRONG = [
    ([], 'error: expected --out FOLDER for the predictions, or --evaluate, found neither'),
    (['--out', 'x', '--without', 'scam'], "unknown modality in --without: 'scam'; did you mean"),
    (
        ['other', '--out', 'x'],
        "expected one RUN and one DATA, found also 'other'; did a pattern mat",
    ),
    (['--out', 'x', '--worker', '2'], "unknown argument '--worker'; did you mean '--workers'"),
    (['--out', 'x', '--workers', '-1'], '--workers: expected 0 or more, found -1'),
    (
        ['--out', 'x', '--without', 'rgb', 'gait', 'scan'],
        'expected some sample with a modality besides --without rgb gait scan',
    ),
    (['--out', 'x', '--split', 'val'], 'new.npz: split: expected a key that says which samples'),
    (['--evaluate'], "new.npz: expected the key 'target' to score, found inputs/gait, "),
    (['--out', 'x', '--device', 'cuda'], 'device cuda: no CUDA device was found'),
    (['--out', 'x', '--method-file', 'nowhere.py'], 'nowhere.py: no such file'),
    (
        ['--out', 'x', '--method-file', str(ROOT / 'methods' / 'hemis.py')],
        "hemis.py: registers no method 'logistic' (it registers 'hemis')",
    ),
]


@pytest.mark.parametrize(('words', 'message'), WRONG)
def test_a_wrong_argument_is_one_line(vectors, tmp_path, capsys, words, message):
    run = str(vectors['logistic'])
    assert predict.main([run, unlabelled(tmp_path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


CONTENTS = [
    ({'inputs/rbg': np.zeros((2, 3, 8, 8))}, 'expected some of the keys inputs/rgb'),
    ({'inputs/scan': np.zeros((2, 5))}, 'inputs/scan: expected vector (4,) per sample'),
    ({'inputs/rgb': np.zeros((2, 32, 32, 4))}, 'inputs/rgb: expected image (3, 32, 32)'),
    ({'inputs/gait': np.zeros((2, 9, 5))}, 'inputs/gait: expected sequence (6, 5)'),
    ({'inputs/scan': np.full((2, 4), np.nan)}, 'inputs/scan: expected finite numbers'),
    (
        {'inputs/scan': np.zeros((2, 4)), 'inputs/rgb': np.zeros((3, 3, 32, 32))},
        'inputs/scan: expected 3 samples as of the others, found 2',
    ),
]


@pytest.mark.parametrize(('content', 'message'), CONTENTS)
def test_samples_that_do_not_fit_are_one_line(vectors, tmp_path, capsys, content, message):
    np.savez(tmp_path / 'new.npz', **content)
    words = [str(vectors['logistic']), str(tmp_path / 'new.npz'), '--out', str(tmp_path / 'out')]
    assert predict.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_run_in_the_place_of_the_data_is_told(vectors, tmp_path, capsys):
    words = [str(run) for run in vectors.values()]
    assert predict.main([*words, '--out', str(tmp_path)]) == 2
    told = 'error: expected one RUN and one DATA, found two runs: {} and {}\n'
    assert capsys.readouterr().err == told.format(*words)


def test_data_must_be_there_and_embedded_data_must_not(vectors, tmp_path, capsys):
    run = str(vectors['logistic'])
    assert predict.main([run, '--evaluate']) == 2
    assert 'DATA: expected where the samples lie' in capsys.readouterr().err
    assert predict.main([run, str(tmp_path / 'none.npz'), '--evaluate']) == 2
    assert 'none.npz: expected an .npz file or a folder' in capsys.readouterr().err


def test_help_needs_no_torch():
    code = 'import sys, benchmark.predict; sys.exit(bool({"torch", "mmengine"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0
