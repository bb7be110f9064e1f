"""Learners that are exact, classical or told the task: what meta-learned agents are measured against.

An oracle (``types.Oracle``) is a name and an ``adapt`` with the signature of ``Algorithm.adapt``, whose state is
``()``; so ``meta_test`` scores oracles and algorithms alike. Factories are in ``bandits``, ``tabular_mdp`` and
``gridnavi`` and take ``(family, episodes)`` and, some, settings. ``bandits.bayes_optimal_value`` is the exact optimum
of small bandits, ``gridnavi.best_walk`` that of GridNavi.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
