"""Clips of sound with a video frame, read as by DMRNet's code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.augment.transforms import Compose, Geometric, ResizedCrop
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copied_files, shared
from datasets.common.io.files import Cache, Files, fingerprint
from datasets.common.io.images import IMAGENET, ImageFile8, Scaled, image_side
from datasets.common.io.inspection import check_decoded
from datasets.common.io.optional import package
from datasets.common.io.sounds import check_sounds, read_sound
from datasets.common.io.splits import check_disjoint, held_out, set_apart

HELD_OUT = 0.1
"""Share of the published training clips that validates; the papers have no validation split."""

LARGER = 8 / 7
"""Side of a training frame as a multiple of the crop's side: 256 for 224."""

SIDE = 224
"""Side of the network's input in pixels in DMRNet's code."""


@dataclass(frozen=True)
class Spectrogram:
    """Decodes a wav file into the log magnitude of its short-time Fourier transform.

    The channels are averaged and the sound is resampled. A sound shorter than `seconds` is
    repeated; of a longer one the beginning is taken. Frames are Hann windows, one every `hop`
    samples and centred there.

    Attributes:
        rate: Samples per second.
        seconds: Length of the sound that is taken.
        window: Samples per frame, which give window // 2 + 1 frequencies.
        hop: Samples from one frame to the next.
        standardised: Whether the clip's mean is subtracted and its standard deviation divided by.
    """

    rate: int
    seconds: float
    window: int
    hop: int
    standardised: bool

    dtype = np.float32

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, frequencies, frames)."""
        return 1, self.window // 2 + 1, 1 + int(self.rate * self.seconds) // self.hop

    def __call__(self, path: Path) -> np.ndarray:
        """Returns float32 (1, F, T).

        Raises:
            UserError: The file is broken or holds no sound (`read_sound`).
        """
        sound = self._resampled(path)
        length = int(self.rate * self.seconds)
        sound = np.tile(sound, -(-length // len(sound)))[:length]
        frames = torch.stft(
            torch.from_numpy(sound),
            self.window,
            self.hop,
            window=torch.hann_window(self.window),
            center=True,
            pad_mode='constant',
            return_complex=True,
        )
        values = (frames.abs() + 1e-7).log()
        if self.standardised:
            values = (values - values.mean()) / values.std().clamp_min(1e-9)
        return values[None].numpy()

    def _resampled(self, path: Path) -> np.ndarray:
        rate, found = read_sound(path)
        ratio = Fraction(self.rate, rate)
        if ratio != 1:
            signal = package('scipy.signal', 'sound')
            found = signal.resample_poly(found, ratio.numerator, ratio.denominator)
        return found.astype(np.float32)


class Clip(NamedTuple):
    """One sample.

    Attributes:
        id: Name, unique in the data set.
        audio: The wav file; None if the clip has none.
        visual: The frame; None if the clip has none.
        label: Index of the class.
        cluster: The speaker or video that it comes from, '' where the data do not tell it.
    """

    id: str
    audio: Path | None
    visual: Path | None
    label: int
    cluster: str = ''

    @property
    def files(self) -> dict[str, Path]:
        """Modality -> file, of those that the clip has."""
        found = {'audio': self.audio, 'visual': self.visual}
        return {modality: file for modality, file in found.items() if file is not None}


class AudioVisual(Dataset):
    """Base of CREMA-D and Kinetics-Sounds.

    A sample is the spectrogram and the middle frame of a clip; DMRNet's code takes the frame that
    the file system lists first. About a tenth of the training clips, chosen by the hash of their
    names, validates. The encoders are this project's own, whose feature maps are pooled to a common
    grid before they are joined; DMRNet joins the outputs of two whole ResNet-18 after pooling.

    Args:
        train: The published training clips.
        test: The published test clips.
        root: The data root.
        classes: Names of the classes.
        sound: Decodes sounds for validation and test.
        longer: Decodes sounds for training, which crops them to the length of `sound`.
        aside: Files below the root that are neither sounds nor frames.
        size: Side of the video frame in pixels.
        width: Channels of the encoders' first stage.
        gaps: Whether a clip without sound or without a frame is taken as a gap in the data; if not,
            it is an error.
        cache: Where decoded files are kept: nowhere, in memory or in files below the root.
        duplicates: Whether copies and clusters in two splits are reported or refused.

    Raises:
        UserError: A file is missing, a clip is in both splits, a class has no training clip, or
            `size` is no side of an image.
    """

    recipe = {
        'epochs': 100,
        'batch_size': 64,
        'optimizer': 'SGD',
        'lr': 1e-3,
        'weight_decay': 1e-4,
        'momentum': 0.9,
        'nesterov': False,
        'schedule': 'step:0.7',
        'warmup': 0.0,
    }
    streams = True

    def __init__(
        self,
        train: Sequence[Clip],
        test: Sequence[Clip],
        root: Path,
        classes: tuple[str, ...],
        sound: Spectrogram,
        longer: Spectrogram,
        aside: Sequence[Path],
        *,
        size: int = SIDE,
        width: int = 64,
        gaps: bool = False,
        cache: Cache = 'none',
        duplicates: Duplicates = 'report',
    ) -> None:
        self.root, self.sound, self.longer = root, sound, longer
        self.size, self.cache = image_side(self.name, size), cache
        kept, held = set_apart(train, lambda clip: held_out(clip.id, HELD_OUT))
        self.clips = {'train': kept, 'val': held, 'test': list(test)}
        empty = self._check(gaps, classes)
        everything = [c for clips in self.clips.values() for c in clips]
        self.fingerprint = fingerprint(
            [f for c in everything for f in (c.audio, c.visual) if f is not None],
            [(c.id, c.label, c.audio is None, c.visual is None) for c in everything],
            {name: len(clips) for name, clips in self.clips.items()},
            (classes, sound, longer, size, width),
        )
        files = {
            name: {clip.id: clip.files for clip in clips} for name, clips in self.clips.items()
        }
        clusters = {name: [clip.cluster for clip in clips] for name, clips in self.clips.items()}
        shapes = (Modality('audio', sound.shape), Modality('visual', (3, self.size, self.size)))
        self.task = Task(self.name, 'classification', shapes, classes, 'accuracy', width)
        available = {name: self._available(clips) for name, clips in self.clips.items()}
        shown = {name: {clip.label for clip in clips} for name, clips in self.clips.items()}
        self.notes = (
            notes.found(shapes, self.clips, 'clips'),
            *notes.labels(classes, shown),
            *notes.gaps(self.task.names, available, 'clips'),
            *notes.empty(empty, 'clips'),
            *notes.aside(str(file.relative_to(root)) for file in aside),
            *copied_files(root, files, duplicates, 'clip'),
            *shared(root, clusters, duplicates),
        )

    def _check(self, gaps: bool, classes: tuple[str, ...]) -> list[str]:
        """Checks the clips and leaves out those without any file; returns their names."""
        empty = []
        check_disjoint(self.root, {k: [c.id for c in v] for k, v in self.clips.items()}, 'clip')
        for clip in (c for clips in self.clips.values() for c in clips):
            lacking = [k for k in ('audio', 'visual') if k not in clip.files]
            if lacking and not gaps:
                every = len(lacking) == 2
                hint = 'leaves such clips out' if every else 'takes this for a gap'
                found = f'{" and ".join(lacking)} of clip {clip.id!r}, found none'
                raise UserError(f'{self.root}: expected {found}; gaps=true {hint}')
            if len(lacking) == 2:
                empty.append(clip.id)
        for name, clips in self.clips.items():
            self.clips[name] = [clip for clip in clips if clip.files]
        check_disjoint(self.root, {k: [c.id for c in v] for k, v in self.clips.items()}, 'clip')
        trained = {clip.label for clip in self.clips['train']}
        for label, name in enumerate(classes):
            if label not in trained:
                raise UserError(f'{self.root}: expected some training clip of {name!r}, found none')
        return empty

    def check(self) -> None:
        """Decodes all frames and reads all sounds once.

        Raises:
            UserError: A file is broken, is no image that can be read in full, or no whole sound.
        """
        every = [clip for clips in self.clips.values() for clip in clips]
        # One size for every `size`, which therefore does not make the files be read again.
        frames = [clip.visual for clip in every if clip.visual is not None]
        check_decoded(frames, ImageFile8((SIDE, SIDE)))
        check_sounds([clip.audio for clip in every if clip.audio is not None])

    def split(self, name: str) -> Split:
        """Returns a split; no file of another split is read."""
        if name not in self.clips:
            raise unknown(f'split of {self.name}', name, self.clips)
        clips, train = self.clips[name], name == 'train'
        clusters = [clip.cluster for clip in clips]
        return Split(
            inputs={'audio': self._audio(clips, train), 'visual': self._visual(clips, train)},
            target=np.array([c.label for c in clips], np.int64),
            available=self._available(clips),
            ids=np.array([c.id for c in clips]),
            clusters=np.array(clusters) if all(clusters) else None,
            augment=self._augmentation() if train else None,
        )

    def _available(self, clips: Sequence[Clip]) -> np.ndarray:
        return np.array([[c.audio is not None, c.visual is not None] for c in clips])

    def _audio(self, clips: Sequence[Clip], train: bool) -> Files:
        decode = self.longer if train else self.sound
        # The path of a clip without sound is never read; it only keeps the place.
        paths = [c.audio or self.root for c in clips]
        folder = self.root / '.cache'
        return Files(paths, decode, decode.shape, None, self.cache, folder)

    def _visual(self, clips: Sequence[Clip], train: bool) -> Files:
        side = round(self.size * LARGER) if train else self.size
        mean, std = IMAGENET
        scale = Scaled([255 * m for m in mean], [255 * s for s in std])
        paths = [c.visual or self.root for c in clips]
        decode = ImageFile8((side, side))
        return Files(paths, decode, (3, side, side), scale, self.cache, self.root / '.cache')

    def _augmentation(self) -> Compose:
        frame = ResizedCrop((self.size, self.size), modalities=('visual',))
        return Compose(frame, Geometric(self.sound.shape[1:], flip=0, modalities=('audio',)))
