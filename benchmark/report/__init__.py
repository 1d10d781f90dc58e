"""From records to tables; nothing here loads torch."""
