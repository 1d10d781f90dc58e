"""One file for each data set; `benchmark.registry.discover` imports every file in this folder."""
