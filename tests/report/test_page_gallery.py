"""Pictures of samples on the page: those that lie beside the records, and no others."""

import re

import numpy as np
import pytest
from made_pages import HOSTILE, add, add_gallery, add_rooms, made, picture_of, png
from PIL import Image

from benchmark.records import gallery as files
from benchmark.records import store
from benchmark.report.page import bundle, gallery, gallery_page, gallery_png


@pytest.fixture(autouse=True, scope='module')
def small():
    """The charts' code is not wanted here, and joining it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, 'javascript', lambda: '')
        yield


def add_run(folder, label, seed=0, **dataset):
    """Writes a run whose record names its outcomes."""
    return add(folder / 'runs', label, seed, samples=20, **dataset)


def text_of(folder):
    """The part of the page from the pictures on, in one line."""
    text = made(folder)[0]
    return ' '.join(text[text.index('Samples, predictions and errors') :].split())


def test_methods_stand_side_by_side_on_the_samples_that_they_share(tmp_path):
    add_gallery(add_run(tmp_path, 'one'), [('s1', 'random', 1), ('s7', 'drop', 0)])
    add_gallery(add_run(tmp_path, 'other'), [('s1', 'random', 1)])
    add_run(tmp_path, 'without')
    text = text_of(tmp_path)
    drop, random = text.split('<table class="answers">')[1:]
    heads = [re.findall(r'<th scope="col" data-method="\d">(\w+)', t) for t in (drop, random)]
    assert sorted(map(sorted, heads)) == [['one'], ['one', 'other']]
    assert random.count('<tr><th scope="row">') == drop.count('<tr><th scope="row">') == 3
    assert random.count('>not recorded<') == 3  # in each row the modality that the sample lacks
    assert random.count('>withheld<') == 2
    assert 'attack</span>' in drop.split('✓ right: ')[1]
    assert '✗ wrong: attack' in random
    assert random.count('error 12.5 %') == 6
    assert 'its error grows by 50 percentage points' in text
    assert 'the extreme cases of 60 test samples' in text
    assert 'Without pictures: without.' in text
    assert 'All networks are those of seed 0.' in text


def test_a_row_shows_the_first_of_its_seeds_that_has_pictures(tmp_path):
    add_run(tmp_path, 'one', 0)
    add_gallery(add_run(tmp_path, 'one', 1))
    assert 'All networks are those of seed 1.' in text_of(tmp_path)


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'identity': 'f' * 16}, 'No pictures of samples lie beside these records'),
        ({'outcomes': 'f' * 64}, 'No pictures of samples lie beside these records'),
        ({'pictures': {'0' * 16: png(1)}}, 'expected PNG files in base64'),
        ({'format': 9}, 'expected an object of format 1'),
    ],
)
def test_pictures_of_other_outcomes_are_not_shown_and_damaged_ones_are_named(
    changes, told, tmp_path
):
    add_gallery(add_run(tmp_path, 'one'), **changes)
    text = text_of(tmp_path)
    assert told in text
    assert '<table class="answers">' not in text


def test_a_machine_that_answers_otherwise_is_told(tmp_path):
    add_gallery(add_run(tmp_path, 'one'), differs=0.034)
    assert 'one: an error of the pictures differs by 3.4 points' in text_of(tmp_path)


def test_names_do_nothing_but_be_read(tmp_path):
    path = add_run(tmp_path, 'one', names=(HOSTILE, 'b'), classes=[HOSTILE, 'live'])
    add_gallery(path, [(HOSTILE, 'random', 1)])
    text = text_of(tmp_path)
    assert HOSTILE not in text
    assert text.count('&lt;/script&gt;&lt;b&gt;') > 5


def test_a_page_stays_small(tmp_path, monkeypatch):
    for label in ('one', 'other'):
        add_gallery(add_run(tmp_path, label), start=len(label))
    size = sum(len(png(3, k)) for k in range(3))
    monkeypatch.setattr(gallery, 'LARGEST', size)
    text = text_of(tmp_path)
    assert len(re.findall(r'Left out, so that the page stays small: (one|other)\.', text)) == 1
    monkeypatch.setattr(gallery, 'MOST', len(png(3, 1)))
    text = text_of(tmp_path)
    assert 'The pictures are left out, so that the page stays small.' in text
    assert 'base64' not in made(tmp_path)[0]


def test_label_maps_have_a_legend_and_words(tmp_path):
    add_rooms(tmp_path / 'runs', 'm', 0)
    (path,) = tmp_path.rglob('record.json')
    told = [picture_of(0, 1, t) for t in ('wall 75 %, floor 25 %', '30.0 % are wrong')]
    answers = {'depth': {'error': 0.3, 'map': told[0], 'mistakes': told[1], 'wrong': 0.3}}
    sample = {
        'rule': 'random', 'value': 0.0, 'name': 's1', 'place': '', 'truth': told[0],
        'inputs': {'depth': picture_of(0, 1, 'depth')}, 'answers': answers,
    }  # fmt: skip
    add_gallery(path, [sample], colours=['#000000', '#0000ff', '#ff0000'])
    text = text_of(tmp_path)
    assert '<span class="swatch" style="background:#0000ff"></span> floor' in text
    assert text.count('aria-label="wall 75 %, floor 25 %"') == 2  # truth and answer
    assert 'wrong: 30.0 %' in text


def test_each_sample_is_a_png_file_with_the_pictures_of_its_rows(tmp_path):
    path = add_run(tmp_path, 'one')
    add_gallery(path, [('a/b ..', 'drop', 1), ('s2', 'random', 0)])
    record = store.read(path)
    found = files.read(path.parent, record)
    page, *made = gallery_page.write(tmp_path / 'out', [record], [found], png=True)
    assert page.name == 'gallery.html'
    assert [f.name for f in made] == ['drop-1-a-b.png', 'random-1-s2.png']
    drawn = np.asarray(Image.open(made[0]).convert('L'))
    # The pictures of depth and ir are two grey pixels, 0 and the number of the modality.
    tile, step = gallery_png.TILE, gallery_png.TILE + gallery_png.GAP
    rows = drawn[-(gallery_png.GAP + 3 * (tile + gallery_png.LINE + gallery_png.GAP)) :]
    start = gallery_png.FIRST + np.arange(3) * step
    given = [[True, False], [False, True], [True, True]]
    for k, (depth, ir) in enumerate(given):
        top = k * (tile + gallery_png.LINE + gallery_png.GAP) + gallery_png.GAP // 2
        for there, left, grey in ((depth, start[1], 1), (ir, start[2], 2)):
            cut = rows[top : top + tile // 2, left : left + tile]
            assert (
                (cut[:, : tile // 2] == 0).all() and (cut[:, tile // 2 :] == grey).all()
            ) == there
