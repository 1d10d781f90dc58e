"""One file for each method; `benchmark.registry.discover` imports every file in this folder."""
