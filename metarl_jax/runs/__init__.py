"""Run folders, and the code on the host that trains, measures and records runs.

``open`` reads a run folder from Python, and ``open_study`` a study.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
