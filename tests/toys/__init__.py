"""What a user might write: an algorithm, a memory and a family of tasks, a file each."""
