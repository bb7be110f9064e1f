"""The host side of a run: folder, checkpoints, metrics, progress, report. Nothing here is traced."""
