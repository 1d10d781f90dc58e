"""From the words of a command to records: planning, training, testing."""
