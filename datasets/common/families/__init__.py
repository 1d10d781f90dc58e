"""What the data sets of one family share."""
