"""The top floor: one file a task, and the rooms that run it."""
