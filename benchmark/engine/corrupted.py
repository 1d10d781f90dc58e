"""The test samples of a data set under corruptions, the same for all runs on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.dataset import Split
from benchmark.engine import corruptions
from benchmark.engine.corruptions import Sensor
from benchmark.method import Batch, Task
from benchmark.missing import generator

Grade = tuple[str, int]
"""A corruption and its severity; ('', 0) is the clean input."""

CLEAN: Grade = ('', 0)


class Bench:
    """The test samples of a data set with their corruptions, for all of its runs.

    Args:
        task: The modalities and the metric.
        val: The validation split, for the units of the corruptions.
        test: The test split.
    """

    def __init__(self, task: Task, val: Split, test: Split) -> None:
        self.task, self.val, self.test = task, val, test
        self._sensors: dict[str, Sensor] = {}
        self._strangers: dict[str, np.ndarray] = {}
        self._shown: tuple[tuple[str, bytes], np.ndarray] | None = None

    def sensor(self, modality: str) -> Sensor:
        """Returns a modality with its units."""
        if modality not in self._sensors:
            column = self.task.names.index(modality)
            self._sensors[modality] = corruptions.measured(
                self.task.modalities[column],
                self.val.inputs[modality],
                self.val.available[:, column],
            )
        return self._sensors[modality]

    def stranger(self, modality: str, position: int) -> int:
        """Returns the test sample whose input a stuck sensor shows instead.

        It is drawn by the sample's name among those that have the modality: of another cluster or
        volume where some are named, otherwise among all others.
        """
        if modality not in self._strangers:
            there = np.flatnonzero(self.test.available[:, self.task.names.index(modality)])
            # By name: the order of the samples must not matter.
            names = np.asarray(self.test.ids)[there].astype(str)
            self._strangers[modality] = there[np.argsort(names, kind='stable')]
        others = self._strangers[modality]
        owners = self.test.clusters if self.test.clusters is not None else self.test.groups
        apart = others[others != position]
        if owners is not None and (owners[others] != owners[position]).any():
            apart = others[owners[others] != owners[position]]
        if not len(apart):
            return position
        rng = generator(0, 'stranger', modality, str(self.test.ids[position]))
        return int(apart[rng.integers(len(apart))])

    def _others(self, modality: str, positions: np.ndarray) -> np.ndarray:
        """Returns what stuck sensors show instead of samples, (n, *shape) float32.

        All severities of a batch show the same, which is therefore read once.
        """
        key = modality, positions.tobytes()
        if self._shown is None or self._shown[0] != key:
            places = np.array([self.stranger(modality, int(p)) for p in positions], int)
            self._shown = key, np.asarray(self.test.inputs[modality][places], np.float32)
        return self._shown[1]

    def corrupted(self, batch: Batch, modality: str, grade: Grade) -> Tensor:
        """Returns a modality of a batch on the CPU, (B, *shape), corrupted where it is available.

        Args:
            batch: The batch, on the CPU.
            modality: The modality.
            grade: The corruption and its severity.
        """
        kind, severity = grade
        clean = batch.inputs[modality]
        if severity == 0:
            return clean
        rows = clean.numpy().copy()
        there = np.flatnonzero(batch.available[:, self.task.names.index(modality)].numpy())
        positions = batch.ids.numpy()[there]
        others = self._others(modality, positions) if kind == 'frozen' and len(there) else rows
        for k, row in enumerate(there):
            name = str(self.test.ids[positions[k]])
            rows[row] = corruptions.corrupt(
                kind, severity, rows[row], self.sensor(modality), name, others[k]
            )
        return torch.from_numpy(rows)
