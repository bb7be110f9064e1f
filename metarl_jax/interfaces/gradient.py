"""The interface of gradient-based meta-learners: a problem with an inner loss and an outer loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl_jax.types import Array, Inputs, Key, Params, Task, TaskDistribution, Transition


class PolicyFunctions(NamedTuple):
    """Functions of a policy that reinforcement-learning algorithms use in addition to the losses.

    Parameters are those of the problem's network; a batch is one of ``InnerProblem.support`` or ``query``.
    """

    act: Callable[[Key, Params, Inputs], tuple[Array, Any]]
    """``(key, params, inputs) -> (action, record)``: the action as the environment takes it, and the values of the step
    that ``batch`` needs."""
    play: Callable[[Key, Params, Task], Transition]
    """``(key, params, task) ->`` one episode of the policy, with leaves ``[H, ...]``."""
    batch: Callable[[Transition], Any]
    """``episodes [E, H, ...] ->`` a batch like those of ``InnerProblem.support``, from episodes that the policy played;
    ``Transition.output`` has the records of ``act``."""
    distribution: Callable[[Params, Any], Any]
    """``(params, batch) ->`` the policy's action distributions at the batch's steps."""
    divergence: Callable[[Any, Any], Array]
    """``(action distributions, batch) ->`` their mean KL divergence in nats from those of the policy that collected the
    batch; a scalar."""
    log_likelihood: Callable[[Params, Any], Array]
    """``(params, batch) ->`` the sum of the log-probabilities of the batch's actions; a scalar."""
    subsample: Callable[[Any, float], Any]
    """``(batch, share) ->`` about that share of the batch's episodes, at least one, for estimates that may be rough."""
    has_critic: bool = False
    """Whether the losses also train a critic, whose changes ``divergence`` does not measure."""


class FewShotFunctions(NamedTuple):
    """Functions of a few-shot problem that learners use after training, when a task has no query that is scored."""

    task: Callable[[Any], Task]
    """``support (x [N, ...], y [N, ...]) ->`` a task of these examples, as ``InnerProblem.support`` takes held-out
    tasks."""
    predict: Callable[[Params, Any, Array], Array]
    """``(params, support, x [Q, ...]) -> prediction [Q, outputs]``, as ``InnerProblem.score`` predicts a query."""


class InnerProblem(NamedTuple):
    """A problem of gradient-based meta-learning: tasks, data collection and losses.

    A sinusoid, an Omniglot task and a robot differ only in their problem. Batches are data: no derivative passes
    through their collection.
    """

    tasks: TaskDistribution
    init: Callable[[Key], Params]
    support: Callable[[Key, Params, Task], Any]
    """``(key, params, task) ->`` a batch to adapt on: examples, or rollouts of the policy with these parameters."""
    query: Callable[[Key, Params, Task], Any]
    """``(key, params, task) ->`` a batch to score adaptation on; it shares no data with any support batch."""
    inner_loss: Callable[[Params, Any], Array]
    """``(params, support batch) ->`` the loss that adaptation minimises."""
    outer_loss: Callable[[Params, Any], Array]
    """``(adapted params, query batch) ->`` the loss that meta-training minimises."""
    score: Callable[[Params, Any], Array]
    """``(params, batch) ->`` the reported score."""
    policy: PolicyFunctions | None = None
    """Functions of the policy in reinforcement learning. None: the network is not a policy."""
    few_shot: FewShotFunctions | None = None
    """Functions of few-shot tasks. None: tasks are not few-shot, or the problem does not provide the functions."""
    success: Callable[[Any], Array] | None = None
    """``batch ->`` the share of its episodes that are a success (``EnvFamily.success``). None: success is not
    defined."""

    def score_query(self, key: Key, params: Params, task: Task) -> tuple[Array, Array | None]:
        """Collect a query; return its score, and its share of successful episodes or None."""
        query = self.query(key, params, task)
        return self.score(params, query), None if self.success is None else self.success(query)


class Predictor(NamedTuple):
    """A network for supervised tasks."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Array]
    """``(params, x [N, ...]) -> prediction [N, ...]`` for one whole batch, which may be normalised over N."""
