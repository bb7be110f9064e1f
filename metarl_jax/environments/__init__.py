"""Families of tasks, one file a family."""
