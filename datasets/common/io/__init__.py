"""Reading files: samples decoded on demand, stored arrays, splits."""
