"""The generated faces keep their promises: deterministic, graded, and with a true ceiling."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, spearmanr
from sklearn.linear_model import LogisticRegression

from benchmark.errors import UserError
from benchmark.missing import subset_ids, subset_masks
from datasets.common.synthetic.drawing import ellipse
from datasets.synth_faces import ATTACK_MEAN, KINDS, LIVE_MEAN, SynthFaces, anatomy

NAMES = ('rgb', 'depth', 'ir')


@pytest.fixture(scope='module')
def faces():
    return SynthFaces(train=600, val=64, test=400)


@pytest.fixture(scope='module')
def train(faces):
    return faces.split('train')


def acer(live, accepted):
    return (np.mean(accepted[live == 0]) + np.mean(~accepted[live == 1])) / 2


def test_a_sample_is_the_same_whatever_the_sizes_of_the_splits(train):
    few = SynthFaces(train=70, val=1, test=1).split('train')
    for name in NAMES:
        np.testing.assert_array_equal(few.inputs[name], train.inputs[name][:70])
    np.testing.assert_array_equal(few.target, train.target[:70])
    assert list(few.ids) == list(train.ids[:70])


def test_another_data_seed_draws_other_scenes(train):
    other = SynthFaces(train=64, data_seed=2).split('train')
    for name in NAMES:
        assert np.abs(other.inputs[name] - train.inputs[name][:64]).mean() > 0.1


def test_the_fingerprint_changes_with_every_option_that_changes_the_data():
    prints = [
        SynthFaces(**options).fingerprint
        for options in (
            {},
            {'data_seed': 2},
            {'size': 56},
            {'width': 8},
            {'train': 99},
            {'test': 99},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert SynthFaces().fingerprint == prints[0]


def test_the_splits_share_no_sample_and_no_person(faces, train):
    test = faces.split('test')
    assert not set(train.ids) & set(test.ids)
    flat = [s.inputs['rgb'].reshape(len(s), -1)[:100].astype(float) for s in (train, test)]
    closest = min(np.abs(flat[0] - row).mean(1).min() for row in flat[1])
    assert closest > 0.05
    people = [
        {tuple(v) for v in np.stack([z['tone'], z['nose']], 1)}
        for z in map(faces.latents, ('train', 'test'))
    ]
    assert not people[0] & people[1]


def test_a_split_is_drawn_without_touching_another():
    drawn = []

    class Watched(SynthFaces):
        def scene(self, split, block):
            drawn.append((split, block))
            return super().scene(split, block)

    assert len(Watched(val=65).split('val')) == 65
    assert drawn == [('val', 0), ('val', 1)]


def test_split_and_size_mistakes_are_told():
    with pytest.raises(UserError, match="did you mean 'train'"):
        SynthFaces().split('trian')
    with pytest.raises(UserError, match='val: expected at least 1 sample, found 0'):
        SynthFaces(val=0)


def test_pictures_and_labels_are_well_formed(faces, train):
    for modality in faces.task.modalities:
        values = train.inputs[modality.name]
        assert values.shape == (600, *modality.shape)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert abs(values.mean()) < 1
        assert 0.4 < values.std() < 1.5
        assert np.abs(values).max() < 4
    assert set(np.unique(train.target)) == {0, 1}
    assert train.available.all()
    assert train.available.shape == (600, 3)


def test_class_and_kind_are_balanced_and_independent(faces):
    z = faces.latents('train', 6000)
    table = np.array(
        [[np.mean((z['live'] == c) & (z['kind'] == k)) for k in range(3)] for c in (0, 1)]
    )
    # A share of 1/6 has a standard error of sqrt(5/36/6000) = 0.5 %.
    assert np.abs(table - 1 / (2 * len(KINDS))).max() < 0.02


def test_the_sensors_fail(train):
    depth = train.inputs['depth']
    holes = (depth == depth.min()).mean((1, 2, 3))
    assert 0.005 < holes.mean() < 0.3
    assert (holes > 0.02).mean() > 0.1


@pytest.mark.parametrize('changed', range(3))
def test_a_modality_shows_its_own_evidence_alone(faces, changed):
    scene = faces.scene('train', 3)
    other = {**scene, 'evidence': scene['evidence'].copy(), 'live': 1 - scene['live']}
    other['evidence'][:, changed] += 1
    before, after = (faces.render(s, 'train', 3) for s in (scene, other))
    for i, name in enumerate(NAMES):
        differs = (before[name] != after[name]).any((1, 2, 3))
        assert differs.all() if i == changed else not differs.any()


def measured(faces, scene):
    """Measures the three cues from pixels: pattern energy, relief of the nose, eye contrast."""
    pictures, parts = faces.render(scene, 'train', 0), anatomy(scene, faces.size)
    head = (parts['head'] > 0.9) & (parts['v'] > 0.2) & (parts['mouth'] + parts['nostrils'] == 0)
    grey = pictures['rgb'].mean(1)
    detail = (
        grey
        - (np.roll(grey, 2, 1) + np.roll(grey, -2, 1) + np.roll(grey, 2, 2) + np.roll(grey, -2, 2))
        / 4
    )
    pattern = np.array([(d[h] ** 2).mean() for d, h in zip(detail, head, strict=True)])
    depth, centre = (
        pictures['depth'][:, 0],
        (np.abs(parts['u']) < 0.15) & (np.abs(parts['v']) < 0.5),
    )
    rim = (np.abs(parts['u']) > 0.5) & (parts['head'] > 0.9) & (np.abs(parts['v']) < 0.5)
    relief = np.array(
        [np.median(d[c]) - np.median(d[r]) for d, c, r in zip(depth, centre, rim, strict=True)]
    )
    ir, eyes = pictures['ir'][:, 0], parts['eyes'] > 0.6
    cheeks = (parts['head'] > 0.9) & (np.abs(parts['v'] - 0.15) < 0.1)
    contrast = np.array(
        [i[c].mean() - i[e].mean() for i, c, e in zip(ir, cheeks, eyes, strict=True)]
    )
    return {'rgb': pattern, 'depth': relief, 'ir': contrast}


def test_the_cues_are_graded_by_the_evidence(faces):
    scene = faces.scene('train', 0)
    for kind in range(3):
        sweep = {**scene, 'kind': np.full(faces.block, kind)}
        evidence = np.linspace(-3, 3, faces.block)[
            np.random.default_rng(0).permutation(faces.block)
        ]
        sweep['evidence'] = np.repeat(evidence[:, None], 3, 1)
        cues = measured(faces, sweep)
        # Live evidence means less pattern, more relief and more contrast.
        for name, sign in {'rgb': -1, 'depth': 1, 'ir': 1}.items():
            if (name, kind) == ('rgb', 2):
                continue  # a mask has no fine pattern, but dark rims, measured below
            assert sign * spearmanr(cues[name], evidence)[0] > 0.5, (name, KINDS[kind])


def test_a_mask_is_seen_in_rgb_by_dark_rims_around_the_eyes(faces):
    scene = {**faces.scene('train', 0), 'kind': np.full(faces.block, 2)}
    parts, contrast = anatomy(scene, faces.size), []
    rim = (parts['sockets'] > 0.3) & (parts['eyes'] + parts['brows'] == 0)
    cheeks = ellipse(np.abs(parts['u']) - 0.25, parts['v'] - 0.2, 0.12, 0.12, 0.1) == 1
    for evidence in (-2.0, 2.0):
        sweep = {**scene, 'evidence': np.full((faces.block, 3), evidence)}
        grey = faces.render(sweep, 'train', 0)['rgb'].mean(1)
        pairs = zip(grey, cheeks, rim, strict=True)
        contrast.append(np.array([g[c].mean() - g[r].mean() for g, c, r in pairs]))
    assert (contrast[0] > contrast[1]).mean() > 0.9


def test_the_ceiling_is_the_error_of_the_ideal_observer_on_its_own_latents(faces):
    z = faces.latents('test', 30000)
    for subset, mask in zip(subset_ids(NAMES), subset_masks(3), strict=True):
        seen, unit = z['evidence'][:, mask], np.eye(mask.sum())
        live = multivariate_normal(np.zeros(mask.sum()), unit).logpdf(seen - LIVE_MEAN[mask])
        attack = multivariate_normal(np.zeros(mask.sum()), unit).logpdf(
            seen - ATTACK_MEAN[z['kind']][:, mask]
        )
        expected = faces.ceiling()[subset]
        standard_error = np.sqrt(expected * (1 - expected) / len(seen))
        assert abs(acer(z['live'], live > attack) - expected) < 4 * standard_error, subset


def test_depth_is_the_best_modality_and_more_of_them_are_better(faces):
    ceiling = faces.ceiling()
    assert min(NAMES, key=ceiling.get) == 'depth'
    for a, first in zip(subset_ids(NAMES), subset_masks(3), strict=True):
        for b, second in zip(subset_ids(NAMES), subset_masks(3), strict=True):
            if (first <= second).all() and a != b:
                assert ceiling[b] < ceiling[a]
    assert max(ceiling.values()) < faces.chance()


def test_a_simple_reader_of_the_pictures_is_above_chance_and_below_the_ceiling(faces, train):
    test, ceiling = faces.split('test'), faces.ceiling()
    for name in ('depth', 'ir'):
        x, y = (s.inputs[name].reshape(len(s), -1) for s in (train, test))
        probe = LogisticRegression(C=1e-3, max_iter=200).fit(x, train.target)
        error = acer(test.target, probe.predict(y) == 1)
        assert ceiling[name] - 0.02 < error < 0.45, name
