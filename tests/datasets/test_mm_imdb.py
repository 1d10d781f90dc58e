"""MM-IMDb as its archive lays it out: genres, the longest plot, posters, and mistakes."""

import json
import re

import numpy as np
import pytest
from corrections import check_fingerprint
from PIL import Image

from benchmark import run
from benchmark.errors import UserError
from benchmark.registry import discover
from datasets.mm_imdb import GENRES, MMIMDb

discover()
SIZES = {'train': 26, 'dev': 6, 'test': 7}


def tree(root, folders=('dataset', 'dataset')):
    """The archive, whose training films are of one genre after the other, and of Drama."""
    rng = np.random.default_rng(0)
    facts, posters = folders
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    names, films = {}, {}
    for k, (key, count) in enumerate(SIZES.items()):
        names[key] = [f'{1000 * k + i:07d}' for i in range(count)]
        for i, film in enumerate(names[key]):
            genres = [GENRES[i % 23], 'News', *(['Drama'] if i % 3 else [])]
            plots = ['short', f'A {genres[0]} film, number {film} of them.', 'a middle one']
            films[film] = {'title': f'film {i}', 'genres': genres, 'plot': plots}
            (root / facts / f'{film}.json').write_text(json.dumps(films[film]))
            poster = rng.integers(256, size=(48, 32, 3)).astype(np.uint8)
            Image.fromarray(poster).save(root / posters / f'{film}.jpeg')
    (root / 'split.json').write_text(json.dumps(names))
    return root, names, films


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return tree(tmp_path_factory.mktemp('mm_imdb'))


def opened(root, **options):
    return MMIMDb(root=str(root), **{'size': 28, 'words': 60, **options})


def test_films_have_a_label_for_each_genre(made):
    root, names, films = made
    data = opened(root)
    assert (data.task.kind, data.task.metric, len(data.task.classes)) == ('multilabel', 'F1', 23)
    for name, key in (('train', 'train'), ('val', 'dev'), ('test', 'test')):
        split = data.split(name)
        assert split.ids.tolist() == names[key]
        expected = [[int(g in films[f]['genres']) for g in GENRES] for f in names[key]]
        assert split.target.tolist() == expected
        assert split.clusters is None
    trained = data.split('train').target
    weights = [len(trained) / sum(column) for column in trained.T.tolist()]
    assert data.task.class_weights == pytest.approx(weights)
    assert opened(root, weighted=False).task.class_weights == ()
    assert opened(root, weighted=False).fingerprint != data.fingerprint


def test_the_longest_plot_and_the_middle_of_the_poster_are_taken(made):
    root, names, films = made
    split = opened(root).split('test')
    weights = split.inputs['text'].weights
    row = split.inputs['text'][np.array([2])][0]
    words = set(re.findall(r'\w\w+', films[names['test'][2]]['plot'][1].lower()))
    assert {weights.words[k] for k in np.flatnonzero(row)} == words & {*weights.words}
    assert 'number' in words & {*weights.words}
    with Image.open(root / 'dataset' / f'{names["test"][2]}.jpeg') as poster:
        whole = np.asarray(poster.resize((32, 48), Image.Resampling.BILINEAR)) / 255
    mean, std = [0.46777044, 0.44531429, 0.40661017], [0.12221994, 0.12145835, 0.14380469]
    found = split.inputs['image'][np.array([2])][0].transpose(1, 2, 0)
    assert found == pytest.approx((whole[10:38, 2:30] - mean) / std, abs=1e-4)


def test_both_layouts_are_the_same_data(made, tmp_path):
    root, *_ = tree(tmp_path, ('labels', 'images'))
    assert opened(root).fingerprint == opened(made[0]).fingerprint


def test_the_whole_way_to_a_table(made, tmp_path, capsys):
    arguments = ['--methods', 'modality_dropout', '--datasets', 'mm_imdb', '--workers', '0']
    arguments += ['--data-root', str(made[0]), '--device', 'cpu', '--results', str(tmp_path)]
    options = ['epochs=1', 'batch_size=8', 'width=4', 'size=28', 'words=30', 'cache=ram']
    assert run.main([*arguments, '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert re.search('^mm_imdb .*: F1', out, re.M)
    assert 'image+text' in out


def test_training_reads_no_poster_of_the_test(tmp_path):
    root, names, _ = tree(tmp_path)
    data = opened(root)
    for film in names['test']:
        (root / 'dataset' / f'{film}.jpeg').write_bytes(b'poison')
    for name in ('train', 'val'):
        split = data.split(name)
        for rows in split.inputs.values():
            rows[np.arange(len(split))]
    with pytest.raises(UserError, match='cannot be read'):
        data.check()


def test_plots_of_other_splits_do_not_change_the_words(made, tmp_path):
    root, names, films = tree(tmp_path)
    for key in ('dev', 'test'):
        for film in names[key]:
            changed = {**films[film], 'plot': ['poison poison poison']}
            (root / 'dataset' / f'{film}.json').write_text(json.dumps(changed))
    before, after = (opened(r).split('train').inputs['text'] for r in (made[0], root))
    assert np.array_equal(before[np.arange(26)], after[np.arange(26)])


def test_lost_posters_and_plots_are_errors_or_gaps(tmp_path):
    root, names, films = tree(tmp_path)
    lost, silent = names['test'][:2]
    (root / 'dataset' / f'{lost}.jpeg').unlink()
    with pytest.raises(UserError, match=f"expected photo of '{lost}', found none at .*gaps=true"):
        opened(root)
    facts = {k: v for k, v in films[silent].items() if k != 'plot'}
    (root / 'dataset' / f'{silent}.json').write_text(json.dumps(facts))
    data = opened(root, gaps=True)
    assert data.split('test').available[:2].tolist() == [[False, True], [True, False]]
    assert 'of 39 samples, 1 lack image, 1 lack text' in data.notes


def test_bad_roots_are_told(tmp_path):
    root, names, films = tree(tmp_path)

    def told(match, **options):
        with pytest.raises(UserError, match=match) as caught:
            opened(root, **options)
        assert '\n' not in str(caught.value)

    told("mm_imdb:text: expected tfidf or an .npz file below the root, found 'bert'", text='bert')
    (root / 'split.json').write_text(json.dumps({**names, 'dev': names['test']}))
    told(f"sample '{names['test'][0]}' is in val and test")
    (root / 'split.json').write_text(json.dumps({**names, 'train': names['train'][:5]}))
    told("expected some training sample of 'Action', found none")
    (root / 'split.json').write_text('{"train": []}')
    told("split.json: expected 'dev' with a list of names of films")
    (root / 'split.json').write_text('{')
    told('split.json: expected JSON, found: Expecting')
    (root / 'split.json').unlink()
    told('split.json: expected the list of films of each split, found nothing there')
    (root / 'split.json').write_text(json.dumps(names))
    film = root / 'dataset' / f'{names["dev"][0]}.json'
    film.write_text('{"plot": "one text", "genres": []}')
    told(f"{film.name}: expected 'plot' with a list of texts, found 'one text'")
    film.write_text('[]')
    told(f"{film.name}: expected 'plot' with a list of texts, found None")
    film.unlink()
    told(f'{film.name}: expected plot and genres of a film, found nothing there')


def test_a_corrected_poster_or_genre_changes_the_fingerprint(tmp_path, monkeypatch):
    root, names, films = tree(tmp_path)
    film = names['test'][1]
    check_fingerprint(lambda: opened(root), root / 'dataset' / f'{film}.jpeg', monkeypatch)
    before = opened(root).fingerprint
    changed = {**films[film], 'genres': ['Western']}
    (root / 'dataset' / f'{film}.json').write_text(json.dumps(changed))
    assert opened(root).fingerprint != before
