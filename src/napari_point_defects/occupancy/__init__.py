"""What an image's counts say of which atoms are missing, from that image alone.

Nothing here is trained: the images of an X₂ and an M column, the noise and the dirt are all
learned from the image, of which most cells are perfect, and every cell's six classes are then
compared by how well they explain the counts.
"""
