"""What gradient-based meta-learners see: a problem with an inner loss and an outer loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Key, Params, Task, TaskDistribution, Transition


class InnerProblem(NamedTuple):
    """What gradient-based meta-learning sees; a sinusoid, an Omniglot episode and a robot differ only here.

    Batches are data: collecting them is never differentiated.
    """

    tasks: TaskDistribution
    init: Callable[[Key], Params]
    support: Callable[[Key, Params, Task], Any]
    """What a learner with these parameters gets to adapt on: examples, or rollouts of its policy."""
    query: Callable[[Key, Params, Task], Any]
    """What it is judged on; never what it adapted on."""
    inner_loss: Callable[[Params, Any], Array]
    """Of a support batch: what adaptation descends on."""
    outer_loss: Callable[[Params, Any], Array]
    """Of a query batch: what the adapted parameters are meta-trained on."""
    score: Callable[[Params, Any], Array]
    """Of any batch: what is reported."""
    distribution: Callable[[Params, Any], Any] | None = None
    """Of a policy and a batch: its distributions over actions where the batch was. None: there is no policy."""
    divergence: Callable[[Any, Any], Array] | None = None
    """Of such distributions and their batch: their mean KL divergence from those that collected it."""
    log_likelihood: Callable[[Params, Any], Array] | None = None
    """Of a policy and a batch: the log-probability of all its actions."""
    part: Callable[[Any, float], Any] | None = None
    """About that share of a batch, at random: for what may be estimated roughly."""
    critic: bool = False
    """Whether the losses also teach a critic, of whose changes ``divergence`` knows nothing."""
    play: Callable[[Key, Params, Task], Transition] | None = None
    """One episode ``[H, ...]`` of a policy. None: there is no policy."""
    success: Callable[[Any], Array] | None = None
    """Of a batch: the share of its episodes that are a success (``EnvFamily.success``). None: tasks know none."""

    def score_query(self, key: Key, params: Params, task: Task) -> tuple[Array, Array | None]:
        """The score of a query, and its successes."""
        query = self.query(key, params, task)
        return self.score(params, query), None if self.success is None else self.success(query)


class Predictor(NamedTuple):
    """A network for supervised tasks."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Array]
    """``(params, x [N, ...]) -> prediction [N, ...]``; one whole batch, which may be normalised over N."""
