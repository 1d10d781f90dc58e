"""Photos with texts, for classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark.dataset import Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copies, of_modalities
from datasets.common.io.files import Cache, Files, content, fingerprint
from datasets.common.io.images import Scaled, image_side
from datasets.common.io.inspection import check_decoded
from datasets.common.io.paths import has_file
from datasets.common.io.photos import Photo8, unreadable
from datasets.common.io.remembered import hashes
from datasets.common.io.splits import check_disjoint
from datasets.common.io.texts import Features, Weights, digest

SIDE = 224
"""Side of the network's input in pixels in the papers."""

WORDS = 'tfidf'
"""Value of the option `text` by which texts become vectors of weighted words."""

COLOURS = Scaled(
    [255 * m for m in (0.46777044, 0.44531429, 0.40661017)],
    [255 * s for s in (0.12221994, 0.12145835, 0.14380469)],
)
"""Normalises red, green and blue of 8 bits as the code of MMBT."""


class Pair(NamedTuple):
    """One sample.

    Attributes:
        id: Name, unique in the data set.
        image: The photo, which may be missing.
        text: The text, '' if there is none.
        labels: Indices of its classes.
    """

    id: str
    image: Path
    text: str
    labels: tuple[int, ...]


class ImageText(Dataset):
    """Base of the data sets of photos with texts; a subclass sets `task`.

    Photos are prepared as by the code of MMBT (Kiela et al., 2019): the shorter side is resized to
    256 pixels, the central 224 x 224 are taken, and nothing is changed at random. Texts become
    vectors of TF-IDF weights, fitted on the training split alone (`Weights`), or are features of
    the user's own.

    Args:
        splits: 'train', 'val', 'test' -> samples.
        root: The data root.
        classes: Names of the classes.
        more: What else can change a score.
        text: Whether texts become vectors of words (`tfidf`), or the features of an .npz file
            below the root, e.g. `bert.npz`.
        words: Number of words that the vectors know.
        size: Side of the photos in pixels.
        width: Channels of the encoders' first stage.
        layers: Number of layers of the ResNet encoder of photos.
        pretrained: File of its ImageNet weights, or 'none' for random initial weights.
        gaps: Whether a sample without photo or text is taken as a gap in the data; if not, it is an
            error.
        cache: Where decoded photos are kept: nowhere, in memory or in files below the root.
        duplicates: Whether samples of two splits whose content is equal are reported or refused.

    Raises:
        UserError: A file is missing, a sample is in two splits, a class has no training sample, or
            an option has no value that fits.
    """

    streams = True

    def __init__(
        self,
        splits: Mapping[str, Sequence[Pair]],
        root: Path,
        classes: tuple[str, ...],
        more: tuple[object, ...],
        *,
        text: str = WORDS,
        words: int = 4096,
        size: int = SIDE,
        width: int = 64,
        layers: Literal[18, 34, 50] = 18,
        pretrained: str = 'none',
        gaps: bool = False,
        cache: Cache = 'none',
        duplicates: Duplicates = 'report',
    ) -> None:
        self.root, self.words, self.gaps, self.cache = root, words, gaps, cache
        self.width, self.layers, self.pretrained = width, layers, pretrained
        self.size = image_side(self.name, size)
        self.features = self._features(text)
        check_disjoint(root, {k: [p.id for p in v] for k, v in splits.items()})
        there = {name: self._available(pairs) for name, pairs in splits.items()}
        empty = [
            pair.id
            for name, pairs in splits.items()
            for pair, has in zip(pairs, there[name].tolist(), strict=True)
            if not any(has)
        ]
        self.pairs, self.there = {}, {}
        for name, pairs in splits.items():
            kept = np.asarray(there[name].any(1))
            self.pairs[name] = [p for p, keeps in zip(pairs, kept, strict=True) if keeps]
            self.there[name] = there[name][kept]
        check_disjoint(root, {k: [p.id for p in v] for k, v in self.pairs.items()})
        self._check_classes(classes)
        self._prepare_texts()
        self.fingerprint = self._fingerprint(classes, *more)
        shapes = self.modalities
        shown = {n: {k for p in pairs for k in p.labels} for n, pairs in self.pairs.items()}
        self.notes = (
            notes.found(shapes, self.pairs),
            *notes.labels(classes, shown),
            *notes.gaps([m.name for m in shapes], self.there),
            *notes.empty(empty),
            *self._copies(duplicates),
        )

    def _task(self, kind: str, classes: tuple[str, ...], metric: str, **more: Any) -> Task:
        """Returns the task of these photos and texts."""
        return Task(
            self.name,
            kind,
            self.modalities,
            classes,
            metric,
            self.width,
            depth=self.layers,
            pretrained='' if self.pretrained == 'none' else self.pretrained,
            **more,
        )

    def _features(self, text: str) -> Features | None:
        if self.words < 1:
            raise UserError(f'{self.name}:words: expected 1 or more, found {self.words}')
        if text == WORDS:
            return None
        # The path is an option of the record, which must not depend on where the data lie.
        if PurePath(text).is_absolute() or not text.endswith('.npz'):
            expected = f'{WORDS} or an .npz file below the root'
            raise UserError(f'{self.name}:text: expected {expected}, found {text!r}')
        return Features(self.root / text)

    def _available(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Returns (N, 2) bool, whether each sample has a photo and a text."""
        image = np.array([has_file(p.image) for p in pairs], bool)
        if self.gaps and image.any():
            present = [p.image for p, has in zip(pairs, image, strict=True) if has]
            image[image] = ~np.array(unreadable(present, Photo8(SIDE)))
        known = self.features.places if self.features else {p.id for p in pairs if p.text.strip()}
        there = np.stack([image, [p.id in known for p in pairs]], 1)
        whole = there.all(1)
        if not self.gaps and not whole.all():
            raise self._lacking(pairs[int(whole.argmin())], *there[whole.argmin()].tolist())
        return there

    def _lacking(self, pair: Pair, image: bool, text: bool) -> UserError:
        parts = [
            *([] if image else [f'photo of {pair.id!r}, found none at {pair.image}']),
            *([] if text else [f'text of {pair.id!r}, found none']),
        ]
        told = '; expected '.join(parts)
        told += f' in {self.features.file}' if self.features and not text else ''
        return UserError(f'{self.root}: expected {told}; gaps=true takes this for a gap')

    def _check_classes(self, classes: tuple[str, ...]) -> None:
        trained = {k for p in self.pairs['train'] for k in p.labels}
        for label, name in enumerate(classes):
            if label not in trained:
                told = f'expected some training sample of {name!r}, found none'
                raise UserError(f'{self.root}: {told}')

    def _prepare_texts(self) -> None:
        """Fits the vectors of texts, or the moments of features, on the training split."""
        train = self.pairs['train']
        if self.features:
            self.moments = self.features.moments([p.id for p in train])
            return
        known = [p.text for p, has in zip(train, self.there['train'], strict=True) if has[1]]
        self.weights = Weights.fitted(known, self.words, self.root)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The photo and the text."""
        length = self.features.values.shape[1] if self.features else self.words
        return Modality('image', (3, self.size, self.size)), Modality('text', (length,))

    def _fingerprint(self, *more: object) -> str:
        images, known = [], []
        for name, pairs in self.pairs.items():
            for pair, has in zip(pairs, self.there[name].tolist(), strict=True):
                images += [pair.image] if has[0] else []
                known.append((name, pair.id, pair.text, pair.labels, has))
        return fingerprint(
            images,
            known,
            *more,
            content(self.features.file) if self.features else (WORDS, self.words),
            {'size': self.size, 'width': self.width, 'layers': self.layers},
            content(Path(self.pretrained)),
        )

    def _copies(self, duplicates: Duplicates) -> list[str]:
        splits = {}
        for name, pairs in self.pairs.items():
            there, ids = self.there[name], [p.id for p in pairs]
            known = iter(hashes([p.image for p, has in zip(pairs, there, strict=True) if has[0]]))
            photos = [next(known) if has[0] else '' for has in there]
            texts = (
                self.features.digests(ids)
                if self.features
                else [digest(p.text.encode()) if p.text.strip() else '' for p in pairs]
            )
            splits[name] = of_modalities(ids, {'image': photos, 'text': texts})
        return copies(self.root, splits, duplicates)

    def check(self) -> None:
        """Decodes all photos once.

        Raises:
            UserError: A file is broken, or no picture that can be read in full.
        """
        for name, pairs in self.pairs.items():
            present = [p.image for p, has in zip(pairs, self.there[name], strict=True) if has[0]]
            # One size for every `size`, which therefore does not make the files be read again.
            check_decoded(present, Photo8(SIDE))

    def split(self, name: str) -> Split:
        """Returns a split; no photo of another split is read."""
        if name not in self.pairs:
            raise unknown(f'split of {self.name}', name, self.pairs)
        pairs = self.pairs[name]
        ids = [p.id for p in pairs]
        texts: Rows = (
            self.features.rows(ids, self.moments)
            if self.features
            else self.weights.rows([p.text for p in pairs])
        )
        return Split(
            inputs={'image': self._photos(pairs), 'text': texts},
            target=self._target(pairs),
            available=self.there[name],
            ids=np.array(ids),
        )

    def _target(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Returns the labels as the task expects them."""
        return np.array([p.labels[0] for p in pairs], np.int64)

    def _photos(self, pairs: Sequence[Pair]) -> Files:
        side, paths = self.size, [p.image for p in pairs]
        folder = self.root / '.cache'
        return Files(paths, Photo8(side), (3, side, side), COLOURS, self.cache, folder)
