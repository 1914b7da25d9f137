"""Stages of images from fMRI."""
