"""What the suite costs, as ratios within one run: the measurements of `benchmark/speed.py`."""
