"""What two or more datasets share: block-wise generation and drawing primitives."""
