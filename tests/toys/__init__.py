"""Examples of a user's code: an algorithm, a memory and a family of tasks, in one file each."""
