"""Texts as vectors of a fixed length, without any download: words counted and weighted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from datasets.common.io.rows import Standardised, moments
from datasets.common.io.stored import load


def _vectorizer(**options: Any) -> Any:
    """Makes scikit-learn's vectorizer, which takes a second to import, where one is needed."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(**options)


class Weights:
    """The weights of words, by which a text becomes a vector: TF-IDF, as scikit-learn has it.

    A word is two letters or digits or more, in lower case. The vector of a text holds for each
    known word the number of times that it occurs, times log((1 + N) / (1 + n)) + 1 if n of the N
    texts that were fitted have the word; it is then divided by its length. A text without a known
    word is 0. If fewer words are known than the vector has places, the last ones are 0.

    Args:
        words: The known words, in the order of the vector.
        idf: The factor of each.
        size: Length of the vectors.
    """

    def __init__(self, words: Sequence[str], idf: np.ndarray, size: int) -> None:
        self.words, self.idf, self.size = list(words), idf, size
        self.vectorizer = _vectorizer(vocabulary=self.words, dtype=np.float32)
        self.vectorizer.idf_ = idf.astype(np.float32)

    @classmethod
    def fitted(cls, texts: Sequence[str], size: int, where: object) -> Weights:
        """Returns the weights of the `size` words that occur most often in some texts.

        Args:
            texts: The texts.
            size: Length of the vectors.
            where: What holds the texts, for messages.

        Raises:
            UserError: The texts hold no word.
        """
        fitted = _vectorizer(max_features=size)
        try:
            fitted.fit(texts)
        except ValueError:  # raised where no text has a word
            raise UserError(f'{where}: expected words in the training texts, found none') from None
        return cls(fitted.get_feature_names_out().tolist(), fitted.idf_, size)

    @property
    def facts(self) -> dict[str, Any]:
        """The weights as `benchmark.dataset.Preparation` holds them."""
        return {'mean': [0.0], 'std': [1.0], 'words': self.words, 'idf': self.idf.tolist()}

    def rows(self, texts: Sequence[str]) -> TextRows:
        """Returns the vectors of some texts."""
        return TextRows(texts, self)


class TextRows:
    """Vectors of texts, of which those that are read are made dense.

    Implements `benchmark.dataset.Rows`.

    Args:
        texts: The texts.
        weights: The weights of words.
    """

    def __init__(self, texts: Sequence[str], weights: Weights) -> None:
        self.texts, self.weights = texts, weights
        self.counted = weights.vectorizer.transform(texts) if len(texts) else None
        self.shape = (len(texts), weights.size)

    @property
    def preparation(self) -> dict[str, Any]:
        """What texts undergo (`benchmark.dataset.Preparation`)."""
        return self.weights.facts

    def prepared_by(self, facts: Mapping[str, Any]) -> TextRows:
        """Returns the vectors of the texts by the weights of another data set.

        Args:
            facts: The `preparation` of the other data set.
        """
        weights = Weights(facts['words'], np.array(facts['idf'], np.float64), self.weights.size)
        return weights.rows(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the vectors (n, size) at the positions `index`, float32."""
        rows = np.atleast_1d(np.asarray(index))
        found = np.zeros((len(rows), self.weights.size), np.float32)
        if self.counted is not None:
            found[:, : len(self.weights.words)] = self.counted[rows].toarray()
        return found


class Features:
    """Features of texts that the user has computed, from a file.

    Args:
        file: An .npz file with the arrays `id` (N,), names of samples, and `features` (N, D).

    Raises:
        UserError: The file is missing or not as above.
    """

    def __init__(self, file: Path) -> None:
        arrays = load(file)
        for key in ('id', 'features'):
            if key not in arrays:
                known = ', '.join(arrays) or 'nothing'
                raise UserError(f'{file}: expected the arrays id and features, found {known}')
        names, values = arrays['id'], arrays['features']
        if values.ndim != 2 or values.dtype.kind not in 'fiu' or not values.shape[1]:
            found = f'{values.dtype} {values.shape}'
            raise UserError(f'{file}: features: expected numbers (N, D), found {found}')
        if names.shape != values.shape[:1] or names.dtype.kind != 'U':
            expected = f'text ({len(values)},)'
            raise UserError(f'{file}: id: expected {expected}, found {names.dtype} {names.shape}')
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            name = str(names[bad[0]])
            raise UserError(f'{file}: features: expected finite numbers, found others of {name!r}')
        self.file, self.values = file, values
        self.places = {name: k for k, name in enumerate(names.tolist())}
        if len(self.places) < len(names):
            raise UserError(f'{file}: id: expected every name once, found one twice')

    def moments(self, samples: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation of each feature over those samples that have them."""
        known = [self.places[s] for s in samples if s in self.places]
        if not known:
            raise UserError(f'{self.file}: expected features of training samples, found none')
        return moments(self.values, np.array(known))

    def rows(self, samples: Sequence[str], given: tuple[np.ndarray, np.ndarray]) -> Standardised:
        """Returns the standardised features of some samples; of one that has none, any row."""
        places = np.array([self.places.get(s, 0) for s in samples], np.int64)
        return Standardised(self.values, places, given, name=f'{self.file}: features')

    def digests(self, samples: Sequence[str]) -> list[str]:
        """Returns a hash of the features of each sample, '' where there are none."""
        return [
            digest(self.values[self.places[s]].tobytes()) if s in self.places else ''
            for s in samples
        ]


def digest(content: bytes) -> str:
    """Returns a hash of some content."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()
