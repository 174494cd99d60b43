"""The comparisons of Yang et al., Mater. Horiz. 11 (2024) 747, repeated one by one.

python -m benchmarks.paper [--quick] [--check] [--only fig2c]
"""
