"""Pages about runs: what is read of them, drawn, and laid out in HTML."""
