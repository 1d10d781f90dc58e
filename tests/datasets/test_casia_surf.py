"""CASIA-SURF and CeFA in their official layouts, from files to a table."""

import os
import re

import numpy as np
import pytest
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets.casia_surf import LISTS, CasiaSurf
from datasets.cefa import Cefa

discover()
SIDES = {'rgb': (40, 30), 'depth': (32, 32), 'ir': (28, 36)}


def image(file, level, size, suffix_seed=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(suffix_seed).integers(30, size=(*size, 3))
    Image.fromarray((level + noise).astype(np.uint8)).save(file)


def casia_surf(root, count=6):
    """A small tree: live faces are brighter."""
    for split, file in LISTS.items():
        rows = []
        for i in range(count):
            live = i % 2
            names = [f'{split}/{i}/{m}.jpg' for m in SIDES]
            for k, (name, size) in enumerate(zip(names, SIDES.values(), strict=True)):
                image(root / name, 40 + 120 * live, size, 10 * i + k)
            rows.append(' '.join([*names, str(live)]))
        # The last line of the official lists may lack its newline.
        (root / file).write_text('\n'.join(rows))
    return root


def cefa(root, frames=2):
    for race, code in (('AF', 1), ('CA', 2), ('EA', 3)):
        for subject in (0, 250, 400):
            for kind in (1, 2, 4):
                video = root / race / f'{code}-{subject}' / f'{code}_{subject:03d}_1_1_{kind}'
                for folder in ('profile', 'depth', 'ir'):
                    for i in range(frames):
                        image(video / folder / f'{i:04d}.jpg', 40 + 50 * kind, (30, 30), i)
    return root


def test_casia_surf_reads_the_lists(tmp_path):
    data = CasiaSurf(root=str(casia_surf(tmp_path)), size=14)
    for name in LISTS:
        split = data.split(name)
        assert len(split) == 6
        assert split.target.tolist() == [0, 1, 0, 1, 0, 1]
        assert split.ids[3] == f'{name}/3/rgb.jpg'
        side = 18 if name == 'train' else 14
        for m in data.task.names:
            rows = split.inputs[m][np.arange(6)]
            assert rows.shape == (6, 3, side, side)
            expected = (np.where(split.target, 160, 40) + 14.5 - 127.5) / 128
            assert rows.mean((1, 2, 3)) == pytest.approx(expected, abs=0.04)
        assert (split.augment is not None) == (name == 'train')
    assert data.task.classes[data.task.live] == 'live'
    assert CasiaSurf(root=str(tmp_path)).task.modalities[1].shape == (3, 112, 112)


def test_modalities_are_not_interchanged(tmp_path):
    root = casia_surf(tmp_path)
    for k, m in enumerate(SIDES):
        image(root / f'test/0/{m}.jpg', 60 * k, (20, 20))
    split = CasiaSurf(root=str(root), size=14).split('test')
    levels = [split.inputs[m][np.array([0])].mean() for m in ('rgb', 'depth', 'ir')]
    assert levels == pytest.approx([(60 * k + 14.5 - 127.5) / 128 for k in range(3)], abs=0.05)


def trained(name, root, results, *options):
    arguments = ['--methods', 'modality_dropout', '--datasets', name, '--data-root', str(root)]
    arguments += ['--results', str(results), '--device', 'cpu', '--workers', '0']
    more = ['epochs=2', 'batch_size=4', 'warmup=0', 'width=4', 'size=28', *options]
    return run.main([*arguments, '--cfg-options', *more])


@pytest.mark.parametrize(('name', 'make'), [('casia_surf', casia_surf), ('cefa', cefa)])
def test_the_whole_way_to_a_table(name, make, tmp_path, capsys):
    assert trained(name, make(tmp_path / 'data'), tmp_path / 'results') == 0
    out = capsys.readouterr().out
    assert re.search(rf'^{name} .*: ACER', out, re.M)
    assert 'rgb+depth+ir' in out
    assert (tmp_path / 'results' / 'tables' / f'{name}.tex').is_file()


def test_training_reads_no_test_image(tmp_path):
    root = casia_surf(tmp_path)
    data = CasiaSurf(root=str(root), size=14)
    for file in root.glob('test/*/*.jpg'):
        file.write_bytes(b'poison')
    for name in ('train', 'val'):
        for rows in data.split(name).inputs.values():
            rows[np.arange(len(rows))]
    with pytest.raises(UserError, match='cannot be read'):
        data.split('test').inputs['rgb'][np.array([0])]


def test_a_test_file_that_is_no_image_is_told_before_anything_is_trained(tmp_path, capsys):
    root = casia_surf(tmp_path / 'data')
    file = sorted(root.glob('test/*/*.jpg'))[1]
    file.write_bytes(b'poison')
    assert trained('casia_surf', root, tmp_path / 'results') == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {file}: cannot be read')
    assert error.count('\n') == 1
    assert not (tmp_path / 'results' / 'runs').exists()


ODD = {
    'opacity': (Image.new('RGBA', (30, 30)), 'png', "found mode 'RGBA'"),
    'a transparent colour': (Image.new('P', (30, 30)), 'png', "mode 'P' with transparency"),
    'CMYK': (Image.new('CMYK', (30, 30)), 'jpeg', "found mode 'CMYK'"),
    '16 bits': (Image.new('I;16', (30, 30)), 'png', 'expected 8 bits a channel'),
    'a truncated file': (Image.new('RGB', (30, 30), 'red'), 'jpeg', 'cannot be read'),
}


@pytest.mark.parametrize('how', ODD)
def test_a_test_image_that_cannot_be_read_in_full_is_told_before_the_training(how, tmp_path):
    picture, kind, match = ODD[how]
    data = CasiaSurf(root=str(casia_surf(tmp_path)))
    data.check()
    file = tmp_path / 'test/3/ir.jpg'
    picture.save(file, kind, **({'transparency': 0} if 'colour' in how else {}))
    if how == 'a truncated file':
        file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(UserError, match=f'ir.jpg: .*{match}'):
        data.check()


def test_the_persons_of_cefa_are_clusters(tmp_path):
    split = Cefa(root=str(cefa(tmp_path)), size=14).split('test')
    assert set(split.clusters) == {'AF/1-400'}
    assert CasiaSurf(root=str(casia_surf(tmp_path)), size=14).split('test').clusters is None


def test_the_persons_of_casia_surf_are_clusters_where_paths_name_them(tmp_path):
    root = casia_surf(tmp_path)
    rows = []
    for k, line in enumerate((root / LISTS['train']).read_text().splitlines()):
        *names, live = line.split()
        part = 'real_part' if live == '1' else 'fake_part'
        for m, name in zip(('color', 'depth', 'ir'), names, strict=True):
            new = f'Training/{part}/CLKJ_AS{k // 2:04d}/01.rssdk/{m}/{k}.jpg'
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / name).rename(root / new)
            line = line.replace(name, new)
        rows.append(line)
    (root / LISTS['train']).write_text('\n'.join(rows))
    data = CasiaSurf(root=str(root), size=14)
    assert data.split('train').clusters.tolist() == [f'CLKJ_AS{k // 2:04d}' for k in range(6)]
    assert data.split('test').clusters is None


def test_copies_of_training_samples_are_reported(tmp_path):
    # The splits of the made tree hold the same pictures.
    root = casia_surf(tmp_path)
    for k, file in enumerate(sorted(root.glob('val/*/*.jpg'))):
        Image.new('RGB', (20, 20), (k, 0, 0)).save(file)
    note = CasiaSurf(root=str(root)).notes[-1]
    assert note.startswith('6 of 6 samples of test are copies of training samples: test/0/rgb')


def test_fingerprint_tells_what_changes_scores(tmp_path):
    root = casia_surf(tmp_path)

    def found(**options):
        return CasiaSurf(root=str(root), **options).fingerprint

    first = found()
    assert first == found(cache='ram')
    assert len({first, found(size=56), found(width=32)}) == 3
    (root / LISTS['train']).write_text((root / LISTS['train']).read_text()[:-1] + '0')
    assert found() != first


def test_bad_casia_surf_trees_are_told(tmp_path):
    root = casia_surf(tmp_path)
    train, test = root / LISTS['train'], root / LISTS['test']
    whole = train.read_text()

    def told(match):
        with pytest.raises(UserError, match=match) as caught:
            CasiaSurf(root=str(root))
        assert '\n' not in str(caught.value)

    with pytest.raises(UserError, match='casia_surf:size: expected 1 to 8192 pixels .*9999999'):
        CasiaSurf(root=str(root), size=9999999)
    rows = whole.splitlines()
    train.write_text('\n'.join([rows[0], rows[1].replace(' 1', ' live')]))
    told(r"train_list\.txt, entry 2: expected RGB DEPTH IR and 0 or 1, found 'train/1")
    train.write_text('\n'.join([*rows, rows[0]]))
    told(r"sample 'train/0/rgb\.jpg' is in train, twice")
    train.write_text(f'{whole}\n{test.read_text()}')
    told(r"sample 'test/0/rgb\.jpg' is in train and test")
    train.write_text('\n'.join(rows[::2]))
    told('expected some live face in train')
    train.write_text(whole)
    for i in range(3):
        os.remove(root / f'val/{i}/ir.jpg')
    told(r'val/0/ir\.jpg: expected a file, found nothing there \(nor for 2 more of 54\)')
    train.unlink()
    told(r'train_list\.txt: expected a list file, found nothing there')
    with pytest.raises(
        UserError, match='expected --data-root FOLDER, or root=FOLDER after the colon: '
    ):
        CasiaSurf()


@pytest.mark.parametrize(
    ('protocol', 'trained_on', 'tested_on'),
    [('4@5', 'EA', {'AF'}), ('4@1', 'AF', {'CA', 'EA'}), ('4@2', 'CA', {'AF', 'EA'})],
)
def test_cefa_protocols_cross_ethnicity_and_attack(protocol, trained_on, tested_on, tmp_path):
    data = Cefa(root=str(cefa(tmp_path)), protocol=protocol, size=14)
    seen = {}
    for name in ('train', 'val', 'test'):
        split = data.split(name)
        seen[name] = [i.split('/') for i in split.ids]
        kinds = {parts[2][-1] for parts in seen[name]}
        assert kinds == ({'1', '2'} if name == 'test' else {'1', '4'})
        assert [p[2][-1] == '1' for p in seen[name]] == (split.target == data.task.live).tolist()
        rows = split.inputs['ir'][np.arange(len(split))]
        assert np.isfinite(rows).all()
    assert {p[0] for p in seen['train']} == {p[0] for p in seen['val']} == {trained_on}
    assert {p[0] for p in seen['test']} == tested_on
    subjects = [{p[1] for p in seen[name]} for name in seen]
    assert not subjects[0] & subjects[1] | subjects[1] & subjects[2]


def test_cefa_pairs_frames_by_name(tmp_path):
    root = cefa(tmp_path)
    video = root / 'EA' / '3-0' / '3_000_1_1_1'
    (video / 'depth' / '0000.jpg').rename(video / 'depth' / '0000.png')
    data = Cefa(root=str(root), size=14)
    assert [f.files['depth'].suffix for f in data.samples['train'][:2]] == ['.png', '.jpg']
    (video / 'depth' / '0001.jpg').unlink()
    with pytest.raises(UserError, match=r"depth: expected frame '0001', which profile/ir has"):
        Cefa(root=str(root))


def test_bad_cefa_trees_are_told(tmp_path):
    root = cefa(tmp_path)
    with pytest.raises(UserError, match="unknown protocol of cefa '4@6'; did you mean '4@"):
        Cefa(root=str(root), protocol='4@6')
    (root / 'EA' / '3-0' / 'video').mkdir()
    with pytest.raises(UserError, match='expected a name RACE_ID_ACQUISITION_SESSION_KIND'):
        Cefa(root=str(root))
    with pytest.raises(UserError, match='EA/EA: expected a folder of subjects'):
        Cefa(root=str(root / 'EA'))


@pytest.mark.parametrize(('kind', 'make'), [(CasiaSurf, casia_surf), (Cefa, cefa)])
def test_a_corrected_image_changes_the_fingerprint(kind, make, tmp_path, monkeypatch):
    root = make(tmp_path)
    file = next(face.files['ir'] for face in kind(root=str(root)).samples['test'])
    check_fingerprint(lambda: kind(root=str(root)), file, monkeypatch)


def test_copies_are_refused_where_they_shall_be(tmp_path):
    # In the made trees, live faces of one frame number look alike.
    for kind, make in ((Cefa, cefa), (CasiaSurf, casia_surf)):
        root = make(tmp_path / kind.name)
        assert any(
            'of test are copies of training samples: ' in n for n in kind(root=str(root)).notes
        )
        with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found'):
            kind(root=str(root), duplicates='refuse')


def test_what_was_found_and_what_was_left_aside_is_told(tmp_path):
    root = cefa(tmp_path)
    video = 'EA/3-0/3_000_1_1_1'
    for folder in ('profile', 'depth', 'ir'):
        (root / video / folder / '0001.jpg').rename(root / video / folder / '0001.bmp')
    found, left, *_ = Cefa(root=str(root), size=14).notes
    shapes = ', '.join(f'{m} (image 3x14x14)' for m in SIDES)
    assert found == f'found modalities {shapes}; samples: train 3, val 4, test 4'
    names = [f'{video}/{folder}/0001.bmp' for folder in ('depth', 'ir', 'profile')]
    assert left == f'left aside: {", ".join(names)}'
