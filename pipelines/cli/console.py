"""Moved to `pipelines.console`, so that what lies below the command line may use it too."""

from ..console import complain, say, table

__all__ = ["complain", "say", "table"]
