"""Contracts between the networks and the algorithms of one kind of method, a file each."""
