"""Preparation of a data root from official archives, and verification of a data root."""
