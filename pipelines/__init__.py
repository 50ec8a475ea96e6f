"""Finite jobs: dataset, train, evaluate, promote, one folder a system."""
