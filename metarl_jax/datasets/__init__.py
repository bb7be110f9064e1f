"""Few-shot supervised tasks: one family a file."""
