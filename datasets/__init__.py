"""One file each; found by being here (see `benchmark.registry`)."""
