"""Domains of an image: grains and mirror twins, each with its lattice, and what is none of them."""
