"""The contracts of one kind of method each, where its networks and its algorithms meet."""
