"""Simulated HAADF-STEM images: columns by multislice, their superposition, noise."""
