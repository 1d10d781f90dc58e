"""Records: what a run leaves behind, how it is stored, and the metrics in it."""
