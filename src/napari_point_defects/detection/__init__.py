"""CNN-1: the hexagonal cells of an image."""
