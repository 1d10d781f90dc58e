"""DeLiVER as its authors release it: four sensors, weathers, failures, and what goes wrong."""

import re

import numpy as np
import pytest
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets import deliver
from datasets.common.io.sensor_images import Colours8
from datasets.deliver import CLASSES, Deliver

discover()
SIDE, LOW = 40, 20
SCENES = {
    'train': ('MAP_1_point1', 'MAP_1_point2_eventlowres'),
    'val': ('MAP_2_point1',),
    'test': ('MAP_3_point1', 'MAP_3_point1_motionblur'),
}
KINDS = {'img': 'rgb', 'hha': 'depth', 'event': 'event', 'lidar': 'lidar', 'semantic': 'semantic'}
"""Folder -> the word in the names of its files."""


def grown(values, side):
    """A picture (side, side, C) of four equal squares, each in one of four colours (4, C)."""
    squares = np.repeat(np.repeat(np.arange(4).reshape(2, 2), side // 2, 0), side // 2, 1)
    return np.asarray(values, np.uint8)[squares]


def tree(root, frames=('000050', '000100')):
    """The archive with images of 40 x 40 pixels; event images of low resolution have half."""
    rng = np.random.default_rng(0)
    for weather in ('cloud', 'fog', 'night', 'rain', 'sun'):
        for split, scenes in SCENES.items():
            for scene in scenes:
                for frame in frames:
                    for kind, word in KINDS.items():
                        channels = 3 if kind == 'hha' else 4
                        values = rng.integers(256, size=(4, channels))
                        if kind == 'semantic':
                            values[:, 0] = 1, 25, 0, 255
                        side = LOW if kind == 'event' and 'lowres' in scene else SIDE
                        path = root / kind / weather / split / scene / f'{frame}_{word}_front.png'
                        path.parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(grown(values, side)).save(path, compress_level=1)
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(deliver, 'SOURCE', (SIDE, SIDE))
    monkeypatch.setattr(deliver, 'LOW', (LOW, LOW))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return tree(tmp_path_factory.mktemp('deliver'))


def opened(root, **options):
    return Deliver(root=str(root), **{'pretrained': 'none', 'size': '32x32', **options})


def pixels(root, kind, place):
    """All channels of an official file, at a pixel of each of the four squares."""
    image = np.asarray(Image.open(root / kind / f'{place}_{KINDS[kind]}_front.png'))
    at = np.array([1, 3]) * len(image) // 4
    return image[np.ix_(at, at)]


def test_splits_names_and_places_are_the_folders(made):
    data = opened(made)
    for name, scenes in SCENES.items():
        split = data.split(name)
        ids = [
            f'{w}/{s}/{f}' for w in deliver.WEATHER for s in scenes for f in ('000050', '000100')
        ]
        assert split.ids.tolist() == ids
        places = ['_'.join(i.split('/')[1].split('_')[:3]) for i in ids]
        assert split.clusters.tolist() == places
        assert split.available.all()
    assert [m.name for m in data.task.modalities] == ['rgb', 'depth', 'event', 'lidar']
    assert data.task.classes == CLASSES
    assert len(CLASSES) == 25
    assert Deliver.published_sizes == {'train': 3983, 'val': 2005, 'test': 1897}


def test_values_are_those_of_the_files(made):
    data = opened(made)
    train, test = data.split('train'), data.split('test')
    row = test.ids.tolist().index('fog/MAP_3_point1/000100')
    at = np.ix_([8, 24], [8, 24])
    place = 'fog/test/MAP_3_point1/000100'
    for modality, kind in (
        ('rgb', 'img'),
        ('depth', 'hha'),
        ('event', 'event'),
        ('lidar', 'lidar'),
    ):
        expected = pixels(made, kind, place)[..., :3] / 255
        if modality == 'rgb':
            expected = (expected - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        found = test.inputs[modality][np.array([row])][0].transpose(1, 2, 0)
        assert found[at] == pytest.approx(expected, abs=1e-5)
    target = test.target[np.array([row])][0]
    assert target.shape == (SIDE, SIDE)
    assert target[np.ix_([10, 30], [10, 30])].tolist() == [[0, 24], [255, 255]]
    # Events of half the resolution are enlarged.
    low = train.ids.tolist().index('sun/MAP_1_point2_eventlowres/000050')
    found = train.inputs['event'][np.array([low])][0].transpose(1, 2, 0)
    expected = pixels(made, 'event', 'sun/train/MAP_1_point2_eventlowres/000050')[..., :3] / 255
    assert found[at] == pytest.approx(expected, abs=1e-5)


def test_one_condition_alone_can_be_tested(made):
    whole = opened(made)
    assert whole.notes[-1] == (
        'conditions of test: cloud 4, fog 4, night 4, rain 4, sun 4, motionblur 10'
    )
    assert opened(made, condition='fog').split('test').ids.tolist() == [
        i for i in whole.split('test').ids.tolist() if i.startswith('fog/')
    ]
    blurred = opened(made, condition='motionblur')
    assert all('_motionblur/' in i for i in blurred.split('test').ids.tolist())
    assert len(blurred.split('test')) == 10
    for name in ('train', 'val'):
        assert blurred.split(name).ids.tolist() == whole.split(name).ids.tolist()
    assert blurred.fingerprint != whole.fingerprint
    with pytest.raises(UserError, match="condition of deliver 'motionblurr'; did you mean"):
        opened(made, condition='motionblurr')
    with pytest.raises(UserError, match='expected some samples of test, found none'):
        opened(made, condition='lidarjitter')


def test_the_whole_way_to_a_table(tmp_path, capsys):
    root = tree(tmp_path / 'data', frames=('000050',))
    arguments = ['--methods', 'modality_dropout', '--datasets', 'deliver', '--workers', '0']
    arguments += ['--data-root', str(root), '--results', str(tmp_path), '--device', 'cpu']
    options = ['epochs=1', 'batch_size=4', 'width=4', 'size=32x32', 'layers=18', 'pretrained=none']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert re.search('^deliver .*: mIoU', out, re.M)
    assert 'rgb+depth+event+lidar' in out


def test_training_reads_no_test_file(tmp_path):
    root = tree(tmp_path, frames=('000050',))
    data = opened(root)
    for file in root.glob('*/*/test/*/*.png'):
        file.write_bytes(b'poison')
    for name in ('train', 'val'):
        split = data.split(name)
        for rows in (*split.inputs.values(), split.target):
            rows[np.arange(len(split))]
    with pytest.raises(UserError, match='cannot be read'):
        data.check()


def test_training_crops_all_sensors_and_labels_alike(made):
    (geometric, colours) = opened(made).split('train').augment.steps
    assert (geometric.size, geometric.scale, geometric.nearest) == ((32, 32), (0.5, 2.0), ())
    assert colours.modality == 'rgb'


def test_bad_roots_are_told(tmp_path):
    root = tree(tmp_path, frames=('000050',))

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            opened(root, **options).check()
        assert '\n' not in str(caught.value)

    told('deliver: expected pretrained=FILE', pretrained='')
    told(r"deliver:size: expected HxW in multiples of 32, found '40x40'", size='40x40')
    image = root / 'lidar/rain/val/MAP_2_point1/000050_lidar_front.png'
    whole = image.read_bytes()
    image.unlink()
    told(r'000050_lidar_front\.png: expected a file, as .*_rgb_front\.png is there, found nothing')
    Image.new('RGB', (SIDE, SIDE + 1)).save(image)
    told(r'000050_lidar_front\.png: expected 40x40 pixels, found 41x40')
    Image.new('CMYK', (SIDE, SIDE)).save(image, 'TIFF')
    told("000050_lidar_front.png: expected grey or colours of 8 bits a channel, found mode 'CMYK'")
    image.write_bytes(whole)
    label = root / 'semantic/rain/val/MAP_2_point1/000050_semantic_front.png'
    Image.fromarray(np.full((SIDE, SIDE, 4), 26, np.uint8)).save(label)
    told('000050_semantic_front.png: expected labels 0 to 25, 255, found 26')
    (root / 'img/rain/val/MAP_2_point1/notes.txt').write_text('x')
    told(r'notes\.txt: expected a file <frame>_rgb_front\.png')
    (root / 'img/sun').rename(root / 'img/sunny')
    told('img/sun/train: expected a folder per scene, found nothing there')


def test_a_corrected_file_changes_the_fingerprint(tmp_path, monkeypatch):
    root = tree(tmp_path, frames=('000050',))
    file = root / 'event/sun/test/MAP_3_point1/000050_event_front.png'
    check_fingerprint(lambda: opened(root), file, monkeypatch)


def test_scenes_without_an_image_are_told(tmp_path):
    root = tree(tmp_path, frames=('000050',))
    assert not [note for note in opened(root).notes if 'without an image' in note]
    for scene in ('sun/train/MAP_1_point2', 'fog/val/MAP_2_point7'):
        (root / 'img' / scene).mkdir()
    told = 'scenes without an image: img/sun/train/MAP_1_point2, img/fog/val/MAP_2_point7'
    assert told in opened(root).notes


def test_copies_and_places_in_two_splits_are_told_or_refused(tmp_path):
    root = tree(tmp_path, frames=('000050',))
    for folder, word in KINDS.items():
        source = root / folder / 'sun/train/MAP_1_point1' / f'000050_{word}_front.png'
        copy = root / folder / 'sun/test/MAP_1_point1_motionblur' / f'000050_{word}_front.png'
        copy.parent.mkdir()
        copy.write_bytes(source.read_bytes())
    told = '\n'.join(opened(root).notes)
    assert '1 of 11 samples of test are copies of training samples: ' in told
    assert 'in two splits: 1 of 2 of test in train: MAP_1_point1' in told
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 1 of 11'):
        opened(root, duplicates='refuse')


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA'])
def test_colours_of_every_kind_of_file_are_read(mode, tmp_path):
    picture = Image.fromarray(grown([[9] * 3, [200] * 3, [40] * 3, [77] * 3], 1042))
    (picture.quantize(4) if mode == 'P' else picture.convert(mode)).save(tmp_path / 'x.png')
    found = Colours8((1042, 1042), [(1042, 1042), (512, 512)])(tmp_path / 'x.png')
    assert found.shape == (3, 1042, 1042)
    assert found[:, [0, 0, 1000, 1000], [0, 1000, 0, 1000]].tolist() == [[9, 200, 40, 77]] * 3
