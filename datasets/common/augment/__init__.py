"""Augmentation of whole training batches, on the device that trains."""
