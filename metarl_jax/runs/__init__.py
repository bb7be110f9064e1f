"""The host side of a run: folder, checkpoints, metrics, progress, tables, videos. Nothing here is traced."""
