"""What two or more methods share: the networks, masking and fusion."""
