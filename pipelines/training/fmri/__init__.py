"""Training of networks from voxels to image tokens."""
