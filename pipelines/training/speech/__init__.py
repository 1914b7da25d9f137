"""Fits, protocols, controls and baselines of dementia from speech."""
