"""Judges that learn nothing: what the networks are compared with."""
