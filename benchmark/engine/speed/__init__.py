"""What the harness costs, as ratios within one run: the measurements of `benchmark/speed.py`."""
