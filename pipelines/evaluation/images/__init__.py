"""Scores of reconstructed and retrieved images, as published, with their baselines."""
