"""CNN-2: the class of every unit cell."""
