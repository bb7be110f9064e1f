"""A frozen benchmark of meta-reinforcement learning, which any code can enter. The version is 1 (``VERSION``).

**Why.** Results of meta-RL can hardly be compared across papers: tasks are drawn anew, test goals overlap training
goals, and optima are unknown. Here, tasks, budgets and references are fixed, and the score of a file can be recomputed.

**Tasks.** There are fourteen families in three tiers (``ENTRIES``; ``metarl-jax benchmark list``). Each has a training
distribution, held-out tasks, and, for all but two, shifted tasks that lie outside of the training distribution. Tasks
are made from stored seeds, and their digest is checked (``tasks.digest``).

- Tier 1, minutes on a CPU. *bandit* and *gaussian-bandit* test the balance of exploration and exploitation, with five
  arms and 100 pulls; good references exist. *tabular-mdp-10* adds dynamics. *gridnavi* and *dark-room* are searches
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
only sees the present observation. O is the return of the reference optimum: on held-out tasks of *gridnavi* the exact
Bayes-optimal learner, on those of *bandit* the finite-horizon Gittins index, which is near-optimal, otherwise the
optimal policy of the known task. Both are means over the episodes of a trial and over tasks. For O, these are the tasks
that were drawn, but on *gridnavi* all possible goals: Bayes-optimal walks visit cells in different orders, and only
their mean over all goals is the same. For F, these are all possible tasks of training on *gridnavi*, *dark-room*,
*t-maze*, *key-to-door*, *half-circle* and *half-cheetah-direction*, otherwise the tasks that were drawn.

A family's score is the mean over tasks and episodes; the score of each adaptation episode has the same F and O, so that
the family's score is the mean of these. Success is the share of successful episodes, by adaptation episode, as a mean
over tasks and seeds. A goal counts as often as it was drawn. The score of a tier is the interquartile mean over seeds
and families on held-out tasks, with a stratified bootstrap interval over seeds (Agarwal et al. 2021). ``score`` has the
formulas, and ``reference`` the values with their standard errors; each says how it was found ("exact", "simulated",
"trained" or "bound").

**Properties.** The score does not depend on the scale or the origin of rewards. It increases with every return, and the
optimum has 1. On tasks drawn anew from the training distribution, a learner that ignores its experience has at most 0
in expectation where F is exact: on both bandits, both tabular MDPs, *gridnavi*, *t-maze*, *key-to-door* and
*half-cheetah-direction*; on *cold-start* the same holds up to the choice of the popular item. It does not hold for the
tasks that were drawn: 56 % of the held-out tasks of *t-maze* are to the left, so that a learner that always turns left
has 0.125. Where O is Bayes-optimal, no learner exceeds 1 but by chance, which includes the draw of the goals.

**Weaknesses.** Where O is the known task's optimum, even the Bayes-optimal learner stays below 1, by a different amount
in each family; scores of different families are therefore not equally hard to improve. The interquartile mean drops the
best and the worst quarter of all scores, so that a failure on one family may not show: look at the families, too. A
learner that ignores its experience may have more than 0 where F is not exact. F is the return of uniformly random
actions on *maze* and *xland*, and that of one good walk on *navigation* and *half-circle*. On *dark-room*, F is a mean
over all cells, of which some are held out; random actions are better than F on held-out goals, by 0.004. On shifted
tasks of *gridnavi*, *dark-room* and *key-to-door*, F belongs to training goals, and is neither a lower nor an upper
bound. On those of *half-circle*, F is 0, the return of the best walk for training goals. The interval of a family is
over tasks and seeds, although the tasks are fixed, so that it is wide for a comparison of two learners on the same
tasks. The bootstrap resamples seeds; with three seeds it is a rough interval, and with one it has no width. F or O is a
bound or a trained learner in *dark-room*, *navigation*, *half-circle*, *maze*, *half-cheetah-direction* and *xland*.
The training of outside learners cannot be counted: their file states what they claim. The kind of a learner is a claim,
too. The seeds are public, so nothing prevents a dishonest learner from being trained on held-out tasks; a small number
of goals (*gridnavi*, *dark-room*, *t-maze*) cannot be hidden at all. Settings of the package's own presets were tuned
by its authors.

**Entering.** ``metarl-jax benchmark run my_file.py:my_learner --tier 1`` plays an object with ``reset(interface)`` and
``act(observation, reward, done)`` (``Learner``), and writes one JSON file. Each family and seed gets its own copy of an
object; a class or a function is called with the seed instead. ``metarl-jax benchmark check FILE`` makes the tasks anew,
refuses returns that are impossible, and recomputes every derived number from the returns. ``--replay N --learner
my_file.py:my_learner`` plays the learner again on N random tasks of each split and seed, which alone can show that the
returns are those of this learner. ``metarl-jax benchmark table A.json B.json`` compares files. ``check`` and ``table``
execute no code because of a file.

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
