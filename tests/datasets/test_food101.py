"""UPMC Food-101 as it is released: photos of every kind, titles as vectors, and mistakes."""

import csv
import math
import re
from collections import Counter

import numpy as np
import pytest
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.dataset import Intake
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets import food101
from datasets.common.io.photos import Photo8
from datasets.common.io.splits import held_out
from datasets.food101 import Food101

discover()
DISHES = {'apple_pie': (200, 40, 40), 'ramen': (40, 200, 40), 'sushi': (40, 40, 200)}
WORDS = {'apple_pie': 'best apple pie', 'ramen': 'ramen soup', 'sushi': 'sushi and rice'}


def chosen(dish, validates, count):
    """Numbers of photos of a dish that do or do not validate."""
    every = (k for k in range(999) if held_out(f'{dish}/{dish}_{k}', 0.0736) == validates)
    return [next(every) for _ in range(count)]


def tree(root):
    """Of each dish 6 training, 2 validation and 3 test photos."""
    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        rows = []
        for dish, colour in DISHES.items():
            numbers = [*chosen(dish, False, 6), *chosen(dish, True, 2)]
            if split == 'test':
                numbers = range(1000, 1003)
            for k in numbers:
                size = (40, 60 + k % 3)
                noise = rng.integers(-20, 20, size=(*size, 3))
                photo = Image.fromarray((np.array(colour) + noise).astype(np.uint8))
                path = root / 'images' / split / dish / f'{dish}_{k}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                photo.save(path)
                rows.append([path.name, f'{WORDS[dish]} {k}, "the" Recipe', dish])
        table(root, split).parent.mkdir(exist_ok=True)
        write(root, split, rows)
    return root


def table(root, split):
    return root / 'texts' / f'{split}_titles.csv'


def read(root, split):
    with table(root, split).open(newline='') as file:
        return list(csv.reader(file))


def write(root, split, rows):
    with table(root, split).open('w', newline='') as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return tree(tmp_path_factory.mktemp('food101'))


def opened(root, **options):
    return Food101(root=str(root), **{'size': 28, 'words': 30, **options})


def weighted(texts, fitted):
    """TF-IDF computed word by word: {text: {word: weight}} by the texts that were fitted."""
    words = [Counter(re.findall(r'\b\w\w+\b', text.lower())) for text in fitted]
    known = {w for one in words for w in one}
    idf = {w: math.log((1 + len(fitted)) / (1 + sum(w in one for one in words))) + 1 for w in known}
    found = []
    for text in texts:
        counted = Counter(re.findall(r'\b\w\w+\b', text.lower()))
        raw = {w: n * idf[w] for w, n in counted.items() if w in known}
        length = math.sqrt(sum(x * x for x in raw.values()))
        found.append({w: x / length for w, x in raw.items()})
    return found


def test_splits_and_names_are_those_of_the_tables(made):
    data = opened(made)
    assert data.task.classes == tuple(DISHES)
    assert [(m.name, m.shape) for m in data.task.modalities] == [
        ('image', (3, 28, 28)),
        ('text', (30,)),
    ]
    for name, count in (('train', 18), ('val', 6), ('test', 9)):
        split = data.split(name)
        assert len(split) == count
        assert [i.split('/')[0] for i in split.ids] == [data.task.classes[k] for k in split.target]
        assert split.available.all()
        assert split.clusters is None
    ids = {name: {*data.split(name).ids.tolist()} for name in ('train', 'val', 'test')}
    assert all(held_out(i, 5000 / 67972) for i in ids['val'])
    assert ids['test'] == {f'{dish}/{row[0][:-4]}' for *row, dish in read(made, 'test')}


def test_titles_are_weighted_by_the_training_titles_alone(made):
    data = opened(made, words=200)
    titles = {f'{d}/{p[:-4]}': t for s in ('train', 'test') for p, t, d in read(made, s)}
    fitted = [titles[i] for i in data.split('train').ids.tolist()]
    for name in ('train', 'val', 'test'):
        split = data.split(name)
        rows = split.inputs['text'][np.arange(len(split))]
        assert rows.dtype == np.float32
        places = {w: k for k, w in enumerate(split.inputs['text'].weights.words)}
        expected = weighted([titles[i] for i in split.ids.tolist()], fitted)
        for row, weights in zip(rows, expected, strict=True):
            assert {w: row[places[w]] for w in weights} == pytest.approx(weights, rel=1e-5)
            assert np.count_nonzero(row) == len(weights)
    # Of fewer words those are known that occur most often.
    few = opened(made, words=2).split('test').inputs['text'].weights.words
    assert sorted(few) == ['recipe', 'the']


def test_photos_are_cut_from_the_middle(made):
    split = opened(made).split('test')
    path = made / 'images/test' / f'{split.ids[0]}.jpg'
    with Image.open(path) as image:
        # The shorter side, of 40 pixels, becomes 32, of which 28 are taken.
        width = round(image.width * 32 / 40)
        whole = np.asarray(image.resize((width, 32), Image.Resampling.BILINEAR)) / 255
    left = (width - 28) // 2
    mean, std = [0.46777044, 0.44531429, 0.40661017], [0.12221994, 0.12145835, 0.14380469]
    expected = (whole[2:30, left : left + 28] - mean) / std
    found = split.inputs['image'][np.array([0])][0].transpose(1, 2, 0)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK', '1'])
def test_photos_of_every_kind_are_read(mode, tmp_path):
    photo = Image.new('RGB', (7, 3), (250, 250, 250)).convert(mode)
    photo.save(tmp_path / 'x.jpg', 'TIFF' if mode == 'CMYK' else 'PNG')
    found = Photo8(8)(tmp_path / 'x.jpg')
    assert found.shape == (3, 8, 8)
    assert found.min() > 230


def test_the_whole_way_to_a_table(made, tmp_path, capsys):
    arguments = ['--methods', 'modality_dropout', '--datasets', 'food101', '--workers', '0']
    arguments += ['--data-root', str(made), '--device', 'cpu', '--results', str(tmp_path)]
    options = ['epochs=1', 'batch_size=8', 'width=4', 'size=28', 'words=30', 'cache=ram']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert re.search('^food101 .*: accuracy', out, re.M)
    assert 'image+text' in out


def test_training_reads_no_test_file(made, tmp_path):
    root = tree(tmp_path)
    write(root, 'test', [[p, 'poison', d] for p, _, d in read(root, 'test')])
    data = opened(root)
    for file in root.glob('images/test/*/*'):
        file.write_bytes(b'poison')
    whole = opened(made)
    for name in ('train', 'val'):
        split, expected = data.split(name), whole.split(name)
        for m, rows in split.inputs.items():
            every = np.arange(len(split))
            assert np.array_equal(rows[every], expected.inputs[m][every])
    with pytest.raises(UserError, match='cannot be read'):
        data.check()


def test_new_samples_are_read_by_the_words_of_the_training(made, tmp_path):
    trained = opened(made)
    preparation = trained.preparation(trained.split('val'))
    options = {'size': 28, 'words': 30}
    root = tree(tmp_path)
    rows = read(root, 'train')
    write(root, 'train', [[p, f'other words {k}', d] for k, (p, _, d) in enumerate(rows)])
    intake = Intake(trained.task, options, preparation)
    found = Food101.unseen(root, intake, True, 'test').split
    every = np.arange(len(found))
    expected = trained.split('test').inputs['text'][every]
    assert np.allclose(found.inputs['text'][every], expected, atol=1e-6)
    assert not np.allclose(opened(root).split('test').inputs['text'][every], expected, atol=1e-6)


def test_missing_titles_and_broken_photos_are_errors_or_gaps(tmp_path):
    root = tree(tmp_path)
    lost = root / 'images/test/ramen/ramen_1000.jpg'
    lost.unlink()
    cut = root / 'images/test/ramen/ramen_1001.jpg'
    cut.write_bytes(cut.read_bytes()[:200])
    rows = [[p, ' ' if p == 'ramen_1002.jpg' else t, d] for p, t, d in read(root, 'test')]
    write(root, 'test', rows)
    with pytest.raises(UserError, match=r"expected photo of 'ramen/ramen_1000'.*gaps=true") as told:
        opened(root)
    assert '\n' not in str(told.value)
    data = opened(root, gaps=True)
    split = data.split('test')
    there = dict(zip(split.ids.tolist(), split.available.tolist(), strict=True))
    assert [there[f'ramen/ramen_100{k}'] for k in range(3)] == [
        [False, True],
        [False, True],
        [True, False],
    ]
    assert 'of 33 samples, 2 lack image, 1 lack text' in data.notes
    data.check()
    rows = [[p, '' if p == 'ramen_1000.jpg' else t, d] for p, t, d in rows]
    write(root, 'test', rows)
    assert (
        '1 samples have no modality at all and are left out: ramen/ramen_1000'
        in opened(root, gaps=True).notes
    )


def features(root, name='x.npz', **changed):
    ids = [f'{d}/{p[:-4]}' for s in ('train', 'test') for p, _, d in read(root, s)]
    values = np.random.default_rng(1).normal(3, 2, size=(len(ids), 5)).astype(np.float32)
    np.savez(root / name, **{'id': np.array(ids), 'features': values, **changed})
    return ids, values


def test_own_features_of_titles_take_the_place_of_words(tmp_path):
    root = tree(tmp_path)
    ids, values = features(root)
    data = opened(root, text='x.npz')
    assert data.task.modalities[1].shape == (5,)
    train, test = data.split('train'), data.split('test')
    known = values[[ids.index(i) for i in train.ids.tolist()]].astype(float)
    expected = (values[[ids.index(i) for i in test.ids.tolist()]] - known.mean(0)) / known.std(0)
    assert test.inputs['text'][np.arange(9)] == pytest.approx(expected, abs=1e-5)
    assert data.fingerprint != opened(root).fingerprint

    def told(match, text='x.npz', gaps=False, **changed):
        features(root, **changed)
        with pytest.raises(UserError, match=match) as caught:
            opened(root, text=text, gaps=gaps)
        assert '\n' not in str(caught.value)

    told(
        'food101:text: expected tfidf or an .npz file below the root, found .*', str(root / 'x.npz')
    )
    told("text: expected tfidf or an .npz file below the root, found 'bert'", 'bert')
    told('y.npz: expected an .npz file', 'y.npz')
    told(r'features: expected numbers \(N, D\), found float64 \(3,\)', features=np.zeros(3))
    told(r'id: expected text \(33,\), found', id=np.zeros(33))
    told('id: expected every name once', id=np.array(['a'] * 33))
    told("features: expected finite numbers, found others of '", features=np.full((33, 2), np.nan))
    others = np.array([f'a{k}' for k in range(33)])
    told("expected text of 'apple_pie/apple_pie_0', found none in .*x.npz; gaps=true", id=others)
    told('x.npz: expected features of training samples', id=others, gaps=True)


def test_bad_tables_are_told(tmp_path):
    root = tree(tmp_path)
    train, test = read(root, 'train'), read(root, 'test')

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            opened(root, **options)
        assert '\n' not in str(caught.value)

    told('food101:words: expected 1 or more, found 0', words=0)
    told('food101:size: expected 1 to 8192', size=0)
    write(root, 'test', [*test, ['a.jpg', 'title', 'ramenn']])
    told("dish in .*test_titles.csv 'ramenn'; did you mean 'ramen'")
    write(root, 'test', [*test, ['a.jpg', 'title']])
    told("test_titles.csv: expected photo, title and dish in line 10, found 'a.jpg', 'title'")
    write(root, 'test', [*test, test[0]])
    told(f"sample 'apple_pie/{test[0][0][:-4]}' is in test, twice")
    write(root, 'test', test)
    held = [row for row in train if held_out(f'{row[2]}/{row[0][:-4]}', food101.HELD_OUT)]
    write(root, 'train', [row for row in train if row in held or row[2] != 'sushi'])
    told("expected some training sample of 'sushi', found none")
    write(root, 'train', [[p, '?', d] for p, _, d in train])
    told('expected words in the training texts, found none')
    table(root, 'train').unlink()
    told('train_titles.csv: expected a table of titles, found nothing there')


def test_a_corrected_file_changes_the_fingerprint(tmp_path, monkeypatch):
    root = tree(tmp_path)
    check_fingerprint(lambda: opened(root), root / 'images/test/ramen/ramen_1000.jpg', monkeypatch)

    def change(file):
        rows = [[photo, title.swapcase(), dish] for photo, title, dish in read(root, 'test')]
        write(root, 'test', rows)

    check_fingerprint(lambda: opened(root), table(root, 'test'), monkeypatch, change)


def test_copies_of_training_samples_are_told_or_refused(tmp_path):
    root = tree(tmp_path)
    train, test = read(root, 'train'), read(root, 'test')
    (photo, title, dish), target = train[0], test[0]
    copied = root / 'images/test' / dish / target[0]
    copied.write_bytes((root / 'images/train' / dish / photo).read_bytes())
    # A copied photo under another title is none, and of both modalities it is.
    assert not any('copies' in note for note in opened(root).notes)
    write(root, 'test', [[target[0], title, dish], *test[1:]])
    told = f'1 of 9 samples of test are copies of training samples: {dish}/{target[0][:-4]} (train:'
    assert any(note.startswith(told) for note in opened(root).notes)
    with pytest.raises(UserError, match='duplicates=refuse: expected no copies, found 1 of 9'):
        opened(root, duplicates='refuse')
