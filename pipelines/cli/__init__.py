"""The command line; nothing heavy is imported here at import time."""
