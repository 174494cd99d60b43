"""Analyse every image of a folder: on a cluster, resumable, in one table."""
