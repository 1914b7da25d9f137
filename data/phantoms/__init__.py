"""Synthetic twins of those layouts, with a known planted signal."""
