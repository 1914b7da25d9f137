"""From tokens to images: one decoder a file, one interface."""
