"""Networks, one a file: tensors in, tokens or logits out."""
