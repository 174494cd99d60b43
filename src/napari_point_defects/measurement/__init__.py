"""Measure an image: noise, probe, scan, contamination and contrast, from its repeating lattice."""
