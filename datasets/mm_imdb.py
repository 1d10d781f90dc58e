"""MM-IMDb: genres of films, several each, from their posters and plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.registry import DATASETS
from datasets.common.families.image_text import ImageText, Pair
from datasets.common.io.files import data_root, text
from datasets.common.io.paths import has_folder

SPLIT = 'split.json'
PARTS = {'train': 'train', 'val': 'dev', 'test': 'test'}
"""Split -> key in `split.json`."""

GENRES = (
    *('Drama', 'Comedy', 'Romance', 'Thriller', 'Crime', 'Action', 'Adventure', 'Horror'),
    *('Documentary', 'Mystery', 'Sci-Fi', 'Fantasy', 'Family', 'Biography', 'War', 'History'),
    *('Music', 'Animation', 'Musical', 'Western', 'Sport', 'Short', 'Film-Noir'),
)


@DATASETS.register_module('mm_imdb')
class MMIMDb(ImageText):
    """MM-IMDb (Arevalo et al., ICLR 2017 workshops), 15,552 / 2,608 / 7,799 films of 23 genres.

    The root is the folder that the official archive holds: `split.json`, which maps train, dev and
    test to names of films, and `dataset/<film>.json` with the keys `plot` and `genres` beside the
    poster `dataset/<film>.jpeg`. The layout of the code of missing-aware prompts (Lee et al., CVPR
    2023), `labels/<film>.json` and `images/<film>.jpeg`, is read as well. Of several plots the
    longest one is taken, as in the authors' code and MMBT's. The 23 genres are those of the paper;
    other genres of a film are left out. A film has several genres: the task has a label for each,
    and its metric is the macro F1 of the labels. The file of features multimodal_imdb.hdf5 is not
    read.

    Plots become vectors of the weights of words (TF-IDF, scikit-learn), fitted on the training
    split alone, because no language model is at hand without a download: the papers use word2vec,
    BERT or ViLT, which know more of words than these data do, so that their scores are no target
    here. `text=FILE.npz` takes features that you have computed yourself: the arrays `id`, names of
    films, and `features` (N, D), standardised by the training samples.

    Posters are prepared as by MMBT (Kiela et al., 2019), which also weighs the loss of a label
    where it is present by the inverse of its frequency (`weighted`). Its ResNet-152 with ImageNet
    weights is not used, and no paper trains encoders such as these, so that the recipe is the
    benchmark's default. Films are independent, so that the data name no clusters. The layout, the
    genres and the choice of the plot were taken from the code of the authors, MMBT and
    missing-aware prompts, the numbers of films from papers; no copy of the data was at hand.

    Args:
        root: The folder that holds split.json.
        weighted: Whether the loss weighs labels that are present by inverse frequency.
        text: Whether plots become vectors of words (`tfidf`), or the features of an .npz file below
            the root, e.g. `bert.npz`.
        size: Side of the posters in pixels.
        layers: Number of layers of the ResNet encoder of posters.
        gaps: Whether a film without poster or plot is taken as a gap in the data; if not, it is an
            error.
        cache: Where decoded posters are kept: nowhere, in memory or in files below the root.
        duplicates: Whether films of two splits whose content is equal are reported or refused.
        **shared: The other options of `ImageText`.

    Raises:
        UserError: The root is not as above.
    """

    name = 'mm_imdb'
    licence = 'research only; posters and plots belong to IMDb and those who made them'
    how_to_get = (
        'Download mmimdb.tar.gz, which the README of github.com/johnarevalo/gmu-mmimdb links, and '
        'unpack it; the root holds split.json and the folder dataset.'
    )
    published_sizes = {'train': 15552, 'val': 2608, 'test': 7799}

    def __init__(
        self,
        *,
        root: str = '',
        weighted: bool = True,
        **shared: Any,
    ) -> None:
        folder = data_root('mm_imdb', root, self.how_to_get)
        films = _films(folder)
        splits = {name: list(_pairs(folder, names)) for name, names in films.items()}
        super().__init__(splits, folder, GENRES, (weighted,), **shared)
        labels = self._target(self.pairs['train'])
        weights = tuple((len(labels) / labels.sum(0)).tolist()) if weighted else ()
        self.task = self._task('multilabel', GENRES, 'F1', class_weights=weights)

    def _target(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Returns (N, 23) int64, 1 where a film is of a genre."""
        found = np.zeros((len(pairs), len(GENRES)), np.int64)
        for row, pair in zip(found, pairs, strict=True):
            row[list(pair.labels)] = 1
        return found


def _loaded(file: Path, what: str) -> Any:
    try:
        return json.loads(text(file, what))
    except ValueError as error:
        raise UserError(f'{file}: expected JSON, found: {error}') from None


def _films(root: Path) -> dict[str, list[str]]:
    """Returns 'train', 'val', 'test' -> names of films."""
    file = root / SPLIT
    found = _loaded(file, 'the list of films of each split')
    for key in PARTS.values():
        names = found.get(key) if isinstance(found, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f'{file}: expected {key!r} with a list of names of films')
    return {name: found[key] for name, key in PARTS.items()}


def _pairs(root: Path, films: Sequence[str]) -> Iterator[Pair]:
    one = has_folder(root / 'dataset')
    facts, posters = (root / 'dataset',) * 2 if one else (root / 'labels', root / 'images')
    for film in films:
        file = facts / f'{film}.json'
        found = _loaded(file, 'plot and genres of a film')
        plots, genres = _texts(file, found, 'plot'), _texts(file, found, 'genres')
        labels = tuple(k for k, genre in enumerate(GENRES) if genre in genres)
        yield Pair(film, posters / f'{film}.jpeg', max(plots, key=len, default=''), labels)


def _texts(file: Path, found: Any, key: str) -> list[str]:
    """Returns the texts of a key of a film, none where it lacks the key."""
    texts = found.get(key, []) if isinstance(found, dict) else None
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise UserError(f'{file}: expected {key!r} with a list of texts, found {texts!r:.60}')
    return texts
