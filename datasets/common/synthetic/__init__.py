"""What the generated data sets are drawn and measured with."""
