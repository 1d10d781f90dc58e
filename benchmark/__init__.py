"""The harness: it knows no method and no dataset by name."""
