"""Learners that are exact, classical or told the task: what meta-learned agents are measured against.

An oracle (``base.Oracle``) is a name and an ``adapt`` with the signature of ``Algorithm.adapt``, whose state is
``()``; so ``meta_test`` scores oracles and algorithms alike. Factories are in ``bandits`` and ``tabular_mdp`` and take
``(family, episodes)`` and, some, settings. ``bandits.bayes_optimal_value`` is the exact optimum of small bandits.
"""
