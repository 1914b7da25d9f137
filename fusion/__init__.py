"""Where modalities meet: attention and optimal transport."""
