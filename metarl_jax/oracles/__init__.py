"""Reference learners that were not meta-trained: exact learners, classical learners, and learners that know the task.

An oracle (``types.Oracle``) is a name and an ``adapt`` with the signature of ``Algorithm.adapt``, whose state is
``()``. ``meta_test`` therefore scores oracles and algorithms in the same way. Most factories take ``(family,
episodes)``, and some of them also take settings. ``bandits.bayes_optimal_value`` is the exact optimum of small bandits,
and ``gridnavi.best_walk`` is that of GridNavi.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
