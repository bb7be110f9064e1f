"""A frozen benchmark of meta-reinforcement learning, which any code can enter. The version is 1 (``VERSION``).

**Why.** Results of meta-RL can hardly be compared across papers: tasks are drawn anew, test goals overlap training
goals, and optima are unknown. Here, tasks, budgets and references are fixed, and the score of a file can be recomputed.

**Tasks.** There are fourteen families in three tiers (``ENTRIES``; ``metarl-jax benchmark list``). Each has a training
distribution, held-out tasks, and, for all but two, shifted tasks that lie outside of the training distribution. Tasks
are made from stored seeds, and their digest is checked (``tasks.digest``).

- Tier 1, minutes on a CPU. *bandit* and *gaussian-bandit* test the balance of exploration and exploitation, with five
  arms and 100 pulls; exact references exist. *tabular-mdp-10* adds dynamics. *gridnavi* and *dark-room* are searches
  for a hidden goal; the Bayes-optimal walk is known for the first, and the second holds goals out. *t-maze* tests
  memory alone. *navigation* has continuous actions and dense rewards, as learners by gradient descent need them.
  *cold-start* is an application, whose tasks have a low-rank structure.
- Tier 2, an hour: *half-circle* (sparse rewards), *key-to-door* (two hidden goals in order), *maze* (images),
  *tabular-mdp-25* (longer trials).
- Tier 3, an accelerator: *half-cheetah-direction* (a robot; needs the extra ``mujoco``) and *xland* (tasks with rules;
  needs the extra ``xland``).

**Budgets.** For each family and seed, a learner may be trained with the number of environment steps of its tier
(``TIERS``), on training tasks only. On a task it gets ``Entry.episodes`` episodes, all of which count, the first one
included: exploration is never free.

**Score.** The score of a return R is ``(R - F) / (O - F)``. F is the return of the best policy that does not adapt: it
only sees the present observation. O is the return of the reference optimum: the exact Bayes-optimal learner on *bandit*
and *gridnavi*, otherwise the optimal policy of the known task. Both are means over the episodes of a trial and over the
tasks. A family's score is the mean over tasks and episodes; the score of each adaptation episode has the same F and O,
so that the family's score is the mean of these. Success is the share of successful episodes on each goal, each counted
once (the rule ``per_goal`` of ``manipulation_evaluation``). The score of a tier is the interquartile mean over seeds
and families on held-out tasks, with a stratified bootstrap interval over seeds (Agarwal et al. 2021). ``score`` has the
formulas, and ``reference`` the values with their standard errors; each says how it was found ("exact", "simulated",
"trained" or "bound").

**Properties.** A learner that ignores its experience has at most 0 in expectation, and the optimum has 1. The score
does not depend on the scale or the origin of rewards. It increases with every return. Where O is Bayes-optimal, no
learner exceeds 1 but by chance.

**Weaknesses.** Where O is the known task's optimum, even the Bayes-optimal learner stays below 1, by a different
amount in each family; scores of different families are therefore not equally hard to improve. The interquartile mean
drops the best and the worst quarter of all scores, so that a failure on one family may not show: look at the families,
too. F is computed for the training distribution, or for all goals where some are held out; on the tasks that were
drawn, another fixed policy may be better by chance. The interval of a family is over tasks and seeds, although the
tasks are fixed, so that it is wide for a comparison of two learners on the same tasks. The bootstrap resamples seeds;
with three seeds it is a rough interval, and with one it has no width. F or O is a bound or a trained learner in
*navigation*, *half-circle*, *maze*, *half-cheetah-direction* and *xland*. The training of outside learners cannot be
counted: their file states what they claim. The seeds are public, so nothing prevents a dishonest learner from being
trained on held-out tasks; a small number of goals (*gridnavi*, *dark-room*, *t-maze*) cannot be hidden at all.
Settings of the package's own presets were tuned by its authors.

**Entering.** ``metarl-jax benchmark run my_file.py:my_learner --tier 1`` plays an object with ``reset(interface)`` and
``act(observation, reward, done)`` (``Learner``), and writes one JSON file. ``metarl-jax benchmark check FILE`` makes
the tasks anew and recomputes every derived number from the returns; ``--replay N --learner my_file.py:my_learner``
plays the learner again. ``metarl-jax benchmark table A.json B.json`` compares files. ``check`` and ``table`` execute no
code because of a file.

Example:
    >>> from metarl_jax import benchmark
    >>> benchmark.get("gridnavi").episodes
    4
    >>> fixed, optimum = (benchmark.reference("gridnavi", "heldout", role) for role in ("fixed", "optimum"))
    >>> float(benchmark.normalised(optimum.value, fixed.value, optimum.value))
    1.0
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
