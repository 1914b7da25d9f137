"""The child process that reads published checkpoints and writes safetensors."""
