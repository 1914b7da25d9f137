"""What stands on an encoder: regions and labels from logits."""
