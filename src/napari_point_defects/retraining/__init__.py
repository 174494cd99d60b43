"""Train again on simulated sets and on the labels of a project; keep what is better."""
