"""Preparing a data root from official archives, and verifying one."""
