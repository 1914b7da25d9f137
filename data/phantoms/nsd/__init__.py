"""Phantom brains that look at images, with a known forward model."""
