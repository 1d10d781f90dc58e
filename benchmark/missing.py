"""Missing modalities: the subsets, the training samplers, and simulated training gaps.

A training sampler is a distribution over the 2^M-1 non-empty subsets; every sample draws from it
anew in every epoch, restricted to the modalities that it has. Of few modalities the subsets are
listed; of more than `TABLED` the masks are drawn by the closed forms of `benchmark.draws`. A draw
depends on (seed, epoch) and on the sample's position alone, not on weights, batch order, the number
of loader processes or whether a run was resumed. Training gaps are different: the same samples lack
a modality in every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark import draws
from benchmark.errors import UserError, unknown
from benchmark.subsets import subset_id as subset_id
from benchmark.subsets import subset_ids, subset_masks, subset_named

SAMPLERS = ('uniform', 'by_size', 'bernoulli:P', 'complete', 'only:SUBSET')

GAPS = ('rates', 'mechanism', 'mask')
"""The fields of a protocol that say which training samples lack which modality."""

TABLED = 8
"""Most modalities whose training masks are drawn from a table of all subsets."""


def derive(seed: int, *purpose: int | str) -> int:
    """Returns a seed of its own (31 bits) for one seed and purpose, e.g. (0, 'weights')."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:4], 'little') >> 1


def generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """Returns a generator of its own for one seed and purpose, e.g. (0, 'mask', epoch)."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], 'little')))


@dataclass(frozen=True)
class Sampler:
    """A distribution over subsets from which training masks are drawn.

    Attributes:
        spec: One of `SAMPLERS`, as given on the command line.
        names: The modalities in order.
    """

    spec: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self._value()

    def _value(self) -> str | np.ndarray | None:
        """Returns the subset of 'only', (M,) missing rates of 'bernoulli', None of the others.

        Raises:
            UserError: The spec is none of `SAMPLERS`, or names an unknown modality.
        """
        kind, colon, value = self.spec.partition(':')
        if kind in ('uniform', 'by_size', 'complete') and not colon:
            return None
        if kind == 'only':
            what = 'subset in sampler'
            if len(self.names) <= TABLED and value not in (ids := subset_ids(self.names)):
                raise unknown(f'{what} {self.spec!r}: subset', value, ids)
            if (found := subset_named(value, self.names, what)) != value:
                raise UserError(
                    f'sampler {self.spec!r}: expected modalities in the order of the data set, '
                    f'only:{found}'
                )
            return value
        if kind == 'bernoulli':
            absent = parse_rates(value, self.names, self.spec)
            if (absent == 1).all():
                raise UserError(f'sampler {self.spec!r}: expected a rate below 1 for some modality')
            return absent
        raise unknown('sampler', self.spec, SAMPLERS)

    def probabilities(self) -> np.ndarray:
        """Returns the probability of each subset of `subset_masks`, (2^M-1,), summing to 1.

        Raises:
            UserError: There are more than `LISTED` modalities.
        """
        kind, value = self.spec.partition(':')[0], self._value()
        masks = subset_masks(len(self.names))
        sizes = masks.sum(1)
        if kind == 'uniform':
            weights = np.ones(len(masks))
        elif kind == 'by_size':
            weights = 1 / np.bincount(sizes)[sizes]
        elif kind == 'complete':
            weights = (sizes == len(self.names)).astype(float)
        elif kind == 'only':
            weights = np.array([i == value for i in subset_ids(self.names)], dtype=float)
        else:
            absent = np.asarray(value)
            weights = np.where(masks, 1 - absent, absent).prod(1)
        return weights / weights.sum()

    @property
    def alone(self) -> str:
        """The only subset that samples with all modalities draw; empty if there are several."""
        kind, value = self.spec.partition(':')[0], self._value()
        if isinstance(value, str):
            return value
        rates = np.zeros(len(self.names)) if kind == 'complete' else value
        if rates is None:
            rates = np.full(len(self.names), 0.0 if len(self.names) == 1 else 0.5)
        certain = np.isin(rates, (0, 1)).all()
        return subset_id(self.names, rates == 0) if certain else ''

    @property
    def canonical(self) -> str:
        """The spec in the one spelling that protocols record."""
        kind, _, value = self.spec.partition(':')
        if kind != 'bernoulli':
            return self.spec
        rates = parse_rates(value, self.names, self.spec)
        return f'{kind}:{spell_rates(rates, self.names) or "0"}'

    def draw(
        self, available: np.ndarray, rng: np.random.Generator, tilt: np.ndarray | None = None
    ) -> np.ndarray:
        """Draws one mask per sample.

        Args:
            available: (N, M) bool, what each sample has.
            rng: The generator to draw from.
            tilt: (2^M-1,) t of each subset, whose probability p is then proportional to p exp(t);
                only for modalities whose subsets are listed.

        Returns:
            (N, M) bool, a part of `available`. 'complete' gives all that a sample has. A row is
            empty where the sampler allows no subset of what is there: such samples do not train.
        """
        if self.spec == 'complete':
            return available.copy()
        if len(self.names) > TABLED:
            return self._drawn(available, rng)
        masks, probabilities = subset_masks(len(self.names)), self.probabilities()
        # Gumbel-max: one noise table serves every sample's own restriction of the distribution.
        noise = rng.gumbel(size=(len(available), len(masks))) + (0.0 if tilt is None else tilt)
        fits = ~(masks[None] & ~available[:, None]).any(2)
        with np.errstate(divide='ignore'):
            keys = np.where(fits, np.log(probabilities) + noise, -np.inf)
        chosen = masks[keys.argmax(1)]
        return chosen & np.isfinite(keys.max(1))[:, None]

    def _drawn(self, available: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws as `draw` without a table of the subsets, from the same distribution."""
        value = self._value()
        if isinstance(value, str):
            return draws.only(available, np.isin(self.names, value.split('+')))
        if self.spec == 'by_size':
            return draws.by_size(available, rng)
        absent = np.full(len(self.names), 0.5) if value is None else value
        return draws.bernoulli(available, absent, rng)


def parse_rates(text: str, names: Sequence[str], where: str) -> np.ndarray:
    """Reads missing rates: 'rgb=0.2,depth=0.5' (others 0), '0.3' for all, '0.3,rgb=0.2' for both.

    Raises:
        UserError: An unknown modality, a rate outside [0, 1], or two rates for one modality.
    """
    common, rates = 0.0, dict[str, float]()
    for position, part in enumerate(text.split(',')):
        key, equals, value = part.rpartition('=')
        if equals and key not in names:
            raise unknown(f'modality in {where!r}:', key, names)
        if key in rates or (not equals and position):
            raise UserError(
                f'{where!r}: expected one rate per modality, found {part!r} beside others'
            )
        try:
            rate = float(value)
        except ValueError:
            rate = -1.0
        if not 0 <= rate <= 1:
            raise UserError(f'{where!r}: expected a missing rate from 0 to 1, found {value!r}')
        if equals:
            rates[key] = rate
        else:
            common = rate
    return np.array([rates.get(name, common) for name in names])


def spell_rates(rates: np.ndarray, names: Sequence[str]) -> str:
    """Returns missing rates as `parse_rates` reads them, the same text for the same rates.

    Args:
        rates: (M,) missing rates.
        names: The modalities in order.

    Returns:
        '0.3' if all are equal, 'rgb=0.2,depth=0.5' otherwise; empty if nothing is missing.
    """
    given = [f'{name}={rate:.10g}' for name, rate in zip(names, rates, strict=True) if rate]
    return f'{rates[0]:.10g}' if given and len(set(rates)) == 1 else ','.join(given)


def spelled(settings: Sequence[str], names: Sequence[str], dataset: str) -> list[str]:
    """Returns the protocol's `rates` of each setting of training gaps, each setting once.

    Args:
        settings: As given on the command line: rates, or 'complete', '0' or nothing for no gaps.
        names: The data set's modalities.
        dataset: Its name, for messages.

    Raises:
        UserError: A setting is no rates of these modalities, or none makes gaps.
    """
    found = []
    for setting in settings:
        text = setting.strip()
        try:
            rates = parse_rates('0' if text in ('', 'complete') else text, names, text)
        except UserError as error:
            raise UserError(f'--gaps on {dataset}: {error}') from None
        found.append(spell_rates(rates, names))
    if not any(found):
        raise UserError('--gaps: expected some missing rate above 0, found complete data alone')
    return list(dict.fromkeys(found))


def hide(
    available: np.ndarray,
    ids: Sequence[str] | np.ndarray,
    rates: np.ndarray,
    seed: int,
    statistics: np.ndarray | None = None,
    strength: float = 1.0,
) -> np.ndarray:
    """Simulates training gaps: floor(U r_m) of U units lack modality m in every epoch.

    A unit is a sample, or all samples of one name: a scan that was not made lacks in every slice of
    its volume. Which units lose a modality depends on their names, not on their order, and on
    statistics, where they are given. The units are then drawn one after the other, each among those
    that are left with a probability proportional to exp(b z): z is the mean statistic of the unit's
    samples, standardised over all units, and b the strength. This is done by the Gumbel-max trick:
    the units with the largest b z + g are hidden, where g is a Gumbel variable of each unit.

    Args:
        available: (N, M) bool, what the data have.
        ids: (N,) names of the units; samples of one name lose a modality together.
        rates: (M,) missing rates.
        seed: Seed of the gaps.
        statistics: (N, M) what the loss of each modality depends on. NaN where it is not known; a
            unit of which nothing is known has the mean of the others.
        strength: b. Of two units whose statistics differ by one standard deviation, the one with
            the larger statistic is exp(b) times as likely to be drawn next.

    Returns:
        (N, M) bool, what remains; rows may be empty.
    """
    kept = available.copy()
    units, unit_of = np.unique(np.asarray(ids), return_inverse=True)
    # The small term keeps 10 * 0.3 from falling below 3.
    hidden = np.floor(len(units) * rates + 1e-9).astype(int)
    for m in np.flatnonzero(hidden):
        keys = [hashlib.sha256(f'{seed}/{m}/{i}'.encode()).digest() for i in units]
        order = np.argsort(np.array(keys, dtype='S32'), kind='stable')
        if statistics is not None:
            # Small hashes become large variables: with b = 0 the order would stay as it is.
            shares = np.array([int.from_bytes(key[:8], 'big') / 2**64 for key in keys])
            gumbel = -np.log(-np.log1p(-shares.clip(2**-64, 1 - 2**-53)))
            z = _standardised(statistics[:, m], unit_of)
            order = np.argsort(-strength * z - gumbel, kind='stable')
        kept[np.isin(unit_of, order[: hidden[m]]), m] = False
    return kept


def _standardised(values: np.ndarray, unit_of: np.ndarray) -> np.ndarray:
    """Returns the mean of each unit with mean 0 and deviation 1 over the units; 0 if not known.

    Args:
        values: (N,) values, NaN where they are not known.
        unit_of: (N,) number of the unit of each sample.
    """
    known = ~np.isnan(values)
    counts = np.bincount(unit_of, known)
    sums = np.bincount(unit_of, np.where(known, values, 0))
    means = np.divide(sums, counts, where=counts > 0, out=np.full(len(counts), np.nan))
    if not known.any() or not (deviation := np.nanstd(means)):
        return np.zeros(len(counts))
    return np.nan_to_num((means - np.nanmean(means)) / deviation)


def mask_hash(mask: np.ndarray) -> str:
    """Returns a short hash of an availability or mask table, for records."""
    return hashlib.sha256(np.packbits(mask).tobytes() + str(mask.shape).encode()).hexdigest()[:16]
