"""HTML pages about runs. The modules read run folders, draw figures, and lay out pages."""
