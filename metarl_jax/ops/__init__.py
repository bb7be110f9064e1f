"""Pure mathematics shared by the algorithms."""
