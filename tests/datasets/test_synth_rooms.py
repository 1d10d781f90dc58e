"""The generated rooms keep their promises: deterministic, graded, and with a true ceiling."""

import sys

import mmcv
import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from scripts import run_script
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score

from benchmark.errors import UserError
from datasets import preview
from datasets.common.synthetic.observer import iou_rule, mean_iou
from datasets.preview import MARGIN, PALETTE, TEXT, TILE
from datasets.synth_rooms import (
    CLASSES,
    FIGURE_CLASSES,
    MEANS,
    PANEL_CLASSES,
    SynthRooms,
    outline,
    posterior,
    region_classes,
    regions,
)

POSTER, SCREEN, BOX, PERSON, STANDEE = 2, 3, 4, 5, 6


@pytest.fixture(scope='module')
def rooms():
    return SynthRooms(train=150, val=20, test=60)


@pytest.fixture(scope='module')
def train(rooms):
    return rooms.split('train')


def test_a_sample_is_the_same_whatever_the_sizes_of_the_splits(train):
    few = SynthRooms(train=55, val=1, test=1).split('train')
    for name in ('rgb', 'depth'):
        np.testing.assert_array_equal(few.inputs[name], train.inputs[name][:55])
    np.testing.assert_array_equal(few.target, train.target[:55])
    assert list(few.ids) == list(train.ids[:55])


def test_the_splits_share_no_room(rooms, train):
    val = rooms.split('val')
    assert not set(train.ids) & set(val.ids)
    flat = [s.inputs['depth'].reshape(len(s), -1)[:, ::40].astype(float) for s in (train, val)]
    assert min(np.abs(flat[0] - row).mean(1).min() for row in flat[1]) > 0.05


def test_pictures_and_labels_are_well_formed(rooms, train):
    for modality in rooms.task.modalities:
        values = train.inputs[modality.name]
        assert values.shape == (150, *modality.shape)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert abs(values.mean()) < 1
        assert 0.4 < values.std() < 1.5
        assert np.abs(values).max() < 4
    assert train.target.shape == (150, 64, 64)
    assert rooms.task.classes == CLASSES


def test_every_class_covers_a_part_of_the_pixels(train):
    share = np.bincount(train.target.ravel(), minlength=len(CLASSES)) / train.target.size
    assert len(share) == len(CLASSES)
    assert share.min() > 0.02
    assert share[:2].sum() < 0.85


def test_the_depth_sensor_fails_in_patches_and_on_screens(rooms, train):
    hole = train.inputs['depth'][:, 0] == train.inputs['depth'].min()
    assert 0.005 < hole[train.target == 0].mean() < 0.15
    assert hole[train.target == SCREEN].mean() > 1.5 * hole[train.target == POSTER].mean()


def test_corners_are_dark_in_rgb_alone(train):
    wall = train.target == 0
    corner = np.zeros((64, 64), bool)
    corner[:8, :8] = corner[:8, -8:] = True
    centre = np.zeros((64, 64), bool)
    centre[20:34, 24:40] = True
    light = [train.inputs['rgb'].mean(1)[wall & where].mean() for where in (corner, centre)]
    assert light[0] < light[1] - 0.2


@pytest.mark.parametrize('changed', ['rgb', 'depth'])
def test_a_modality_shows_its_own_cues_alone(rooms, changed):
    scene = rooms.scene('train', 1)
    other = {**scene, changed: scene[changed] + 1, 'classes': scene['classes'][::-1]}
    before, after = (rooms.render(s, 'train', 1) for s in (scene, other))
    for name in ('rgb', 'depth'):
        differs = (before[name] != after[name]).any((1, 2, 3))
        assert differs.all() if name == changed else not differs.any()


def test_outlines_say_nothing_of_the_class(rooms):
    scene = rooms.scene('train', 0)
    other = {**scene, 'classes': scene['classes'][::-1], 'rgb': -scene['rgb']}
    np.testing.assert_array_equal(regions(scene, 64), regions(other, 64))


def swept(rooms, modality, cue):
    """Renders rooms whose first panel and first figure have one cue swept from -3 to 3."""
    scene = rooms.scene('train', 0)
    sweep = {**scene, modality: scene[modality].copy(), 'present': np.ones_like(scene['present'])}
    values = np.random.default_rng(0).permutation(np.linspace(-3, 3, rooms.block))
    sweep[modality][:, [0, 3], cue] = values[:, None]
    sweep[modality][:, 0, 1 - cue] = 3 * cue - 1.5  # a dark panel, or one that stands out
    pictures = rooms.render(sweep, 'train', 0)[modality].mean(1)
    return values, pictures, regions(sweep, 64)


def inside(pictures, where, measure):
    """Measures a picture inside one region, NaN where it is hidden."""
    return np.array(
        [measure(p[w]) if w.sum() > 20 else np.nan for p, w in zip(pictures, where, strict=True)]
    )


@pytest.mark.parametrize(
    ('modality', 'cue', 'region', 'measure'),
    [
        ('rgb', 1, 2, np.mean),
        ('depth', 0, 2, lambda v: np.median(v[v > v.min()])),
        ('depth', 1, 2, lambda v: (v < -1.7).mean()),
        ('depth', 0, 5, np.median),
    ],
    ids=['panel lightness', 'panel protrusion', 'panel holes', 'figure bulge'],
)
def test_the_cues_are_graded(rooms, modality, cue, region, measure):
    values, pictures, seen = swept(rooms, modality, cue)
    found = inside(pictures, seen == region, measure)
    assert spearmanr(values, found, nan_policy='omit')[0] > 0.5


def test_a_panel_fades_into_the_wall_by_its_first_rgb_cue(rooms):
    values, pictures, seen = swept(rooms, 'rgb', 0)
    panel, wall = (inside(pictures, seen == r, np.mean) for r in (2, 0))
    assert spearmanr(values, wall - panel, nan_policy='omit')[0] > 0.5


def test_a_figure_is_shaded_at_its_sides_by_its_first_rgb_cue(rooms):
    values, pictures, seen = swept(rooms, 'rgb', 0)
    sweep = rooms.scene('train', 0)
    side = np.abs(outline(sweep, 3, 64)[1])
    middle, rim = (
        inside(pictures, (seen == 5) & where, np.median) for where in (side < 0.3, side > 0.7)
    )
    assert spearmanr(values, middle - rim, nan_policy='omit')[0] > 0.4


def naive_posterior(z, given, room, region):
    """Bayes' rule for one region, class by class with scipy."""
    if region < 2:
        return np.eye(7)[region]
    allowed = PANEL_CLASSES if region < 5 else FIGURE_CLASSES
    likelihood = np.zeros(7)
    for c in allowed:
        cues = [norm.pdf(z[m][room, region - 2], loc=MEANS[m][c]).prod() for m in given]
        likelihood[c] = np.prod(cues)
    return likelihood / likelihood.sum()


@pytest.mark.parametrize('given', [['rgb'], ['depth'], ['rgb', 'depth']], ids='+'.join)
def test_the_ceiling_is_the_score_of_bayes_rule_on_the_label_maps(rooms, given):
    z = rooms.latents('test')
    chance = np.array([[naive_posterior(z, given, i, r) for r in range(7)] for i in range(60)])
    np.testing.assert_allclose(posterior(z, given), chance, atol=1e-12)
    seen, target = regions(z, 64), rooms.split('test').target
    area = np.array([[np.sum(s == r) for r in range(7)] for s in seen])
    decided = iou_rule(chance.reshape(-1, 7), area.ravel()).reshape(60, 7)
    drawn = np.stack([d[s] for d, s in zip(decided, seen, strict=True)])
    expected = jaccard_score(target.ravel(), drawn.ravel(), average='macro')
    assert rooms.ceiling()['+'.join(given)] == pytest.approx(expected, abs=1e-12)


def expected_iou(chance, area, chosen):
    """Pooled mIoU in expectation, region by region."""
    confusion = np.zeros((chance.shape[1],) * 2)
    for p, a, c in zip(chance, area, chosen, strict=True):
        confusion[:, c] += a * p
    return mean_iou(confusion)


@pytest.mark.parametrize('given', [['rgb'], ['depth'], ['rgb', 'depth']], ids='+'.join)
def test_no_reweighted_most_probable_class_beats_the_rule(rooms, given):
    z = rooms.latents('test')
    chance = posterior(z, given).reshape(-1, 7)
    area = np.stack([(regions(z, 64) == r).sum((1, 2)) for r in range(7)], 1).ravel()
    best = expected_iou(chance, area, iou_rule(chance, area))
    assert best >= expected_iou(chance, area, chance.argmax(1))
    rng = np.random.default_rng(0)
    for _ in range(100):
        weights, offset = np.exp(rng.normal(0, 0.3, 7)), rng.normal(0, 0.05, 7)
        assert expected_iou(chance, area, (chance * weights - offset).argmax(1)) < best + 2e-3


def test_mean_iou_is_the_macro_jaccard_score():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(4, size=(2, 500))
    confusion = np.array(
        [[np.sum((truth == a) & (guess == b)) for b in range(4)] for a in range(4)]
    )
    assert mean_iou(confusion) == pytest.approx(jaccard_score(truth, guess, average='macro'))


def test_a_class_that_does_not_occur_does_not_count():
    tiny = SynthRooms(test=1)
    assert len(np.unique(tiny.split('test').target)) < len(CLASSES)
    assert all(0.3 < score <= 1 for score in tiny.ceiling().values())
    assert mean_iou(np.diag([3.0, 0, 5])) == 1


def test_data_that_differ_in_training_alone_share_their_bounds(monkeypatch):
    counted = []
    real = SynthRooms.ceiling
    monkeypatch.setattr(SynthRooms, 'ceiling', lambda data: counted.append(data) or real(data))
    sizes = {'val': 1, 'test': 7, 'size': 32}
    first = SynthRooms(train=8, **sizes)
    alike = SynthRooms(train=9, width=4, **sizes)
    others = [
        SynthRooms(**{**sizes, k: v}) for k, v in {'test': 8, 'size': 64, 'data_seed': 2}.items()
    ]
    found = [data.bounds for data in (first, alike, *others)]
    assert counted == [first, *others]
    assert found[1] == found[0] == (real(alike), alike.chance())
    assert all(other not in found[:i] for i, other in enumerate(found) if i > 1)


def test_each_modality_confuses_what_it_should(rooms):
    z = rooms.latents('train', 2000)
    truth = region_classes(z)[:, 2:5].ravel()

    def mistaken(given, a, b):
        chance = posterior(z, given)[:, 2:5].reshape(-1, 7)
        return chance[truth == a][:, b].mean()

    assert mistaken(['depth'], POSTER, 0) == pytest.approx(0.45, abs=0.1)
    assert mistaken(['rgb'], POSTER, 0) < 0.1
    assert mistaken(['rgb'], POSTER, BOX) > 0.2
    assert mistaken(['depth'], POSTER, BOX) < 0.1


def test_both_modalities_together_are_better(rooms):
    ceiling = rooms.ceiling()
    assert ceiling['rgb+depth'] > max(ceiling['rgb'], ceiling['depth']) + 0.05
    assert min(ceiling.values()) > 2 * rooms.chance()


def test_a_simple_reader_of_the_pictures_is_above_chance_and_below_the_ceiling(rooms, train):
    test = rooms.split('test')
    for name in ('rgb', 'depth'):
        x, y = (s.inputs[name].transpose(0, 2, 3, 1) for s in (train, test))
        rows = np.linspace(-1, 1, 64, dtype=np.float32)[None, :, None, None] + 0 * x[..., :1]
        x, y = (np.concatenate([v, v**2, rows[:1] + 0 * v[..., :1]], -1) for v in (x, y))
        probe = LogisticRegression(max_iter=200).fit(
            x.reshape(-1, x.shape[-1])[::47], train.target.ravel()[::47]
        )
        guess = probe.predict(y.reshape(-1, y.shape[-1]))
        score = jaccard_score(test.target.ravel(), guess, average='macro')
        assert 1.3 * rooms.chance() < score < rooms.ceiling()[name], name


def test_the_preview_is_a_readable_picture_from_any_folder(tmp_path):
    arguments = ['synth_rooms:train=4,size=32', 'sheet.png', '--count', '2']
    status, _, err = run_script('datasets/preview.py', arguments, tmp_path)
    assert (status, err) == (0, '')
    image = mmcv.imread(tmp_path / 'sheet.png')
    legend_height, row_height = 2 * TEXT, 2 * TEXT + TILE + MARGIN
    assert image.shape == (legend_height + 2 * row_height, 3 * (TILE + 2 * MARGIN), 3)
    rooms = SynthRooms(train=4, size=32)
    label = rooms.labels(rooms.latents('train', 1))[0]
    corner = image[legend_height + 2 * TEXT :, 2 * (TILE + 2 * MARGIN) + MARGIN :]
    np.testing.assert_array_equal(corner[0, 0], PALETTE[label[0, 0]])
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 200


def test_the_preview_tells_an_unknown_dataset_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['preview.py', 'synth_room', str(tmp_path / 'sheet.png')])
    with pytest.raises(UserError, match="did you mean 'synth_rooms'"):
        preview.main()
