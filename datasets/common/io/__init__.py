"""Reading the files of data sets: samples decoded on demand, stored arrays, and splits."""
