"""Metrics, intervals and controls."""
