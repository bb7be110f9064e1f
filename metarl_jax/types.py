"""The types that nearly every algorithm and every environment share.

Conventions, everywhere in the package:

* a function sees *one* task and *one* trajectory; only ``Algorithm.step`` and ``meta_test`` batch over tasks;
* the random key is the first argument, and the function consumes it;
* a task is the environment's parameters (gymnax ``EnvParams``): resetting an environment never draws a new task;
* data are float32 and int32, also where JAX's 64-bit types are enabled (``metarl_jax.precision``).

Time axes lead: a trajectory of ``T`` steps is a tree of arrays ``[T, ...]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""A typed random key, ``jax.random.key(seed)``."""
Tree: TypeAlias = Any
"""Any tree of arrays."""
Task: TypeAlias = Any
"""One task: the environment's parameters, a tree of arrays."""
Params: TypeAlias = Any
"""The parameters of a network, a tree of arrays."""
Carry: TypeAlias = Any
"""The memory that is carried from step to step of a trial, a tree of arrays."""
State: TypeAlias = Any
"""The state of an environment or of an algorithm, a tree of arrays."""
Metrics: TypeAlias = dict[str, Array]
"""Scalars by name."""


class Discrete(NamedTuple):
    """The actions or observations ``0 .. n - 1``; an element is an ``int32`` scalar."""

    n: int


class Box(NamedTuple):
    """Real vectors of the given shape; bounds are scalars or arrays that broadcast to the shape.

    Observations that are whole numbers from 0 to 255 may be ``uint8``; stored trials then hold ``uint8``, too.
    """

    low: float | Array
    high: float | Array
    shape: tuple[int, ...]


Space: TypeAlias = Discrete | Box


class HasSpaces(Protocol):
    """An object with an observation space and an action space, such as a family of tasks."""

    @property
    def observation_space(self) -> Space:
        """The space of one observation."""
        ...

    @property
    def action_space(self) -> Space:
        """The space of one action."""
        ...


class Spaces(NamedTuple):
    """An observation space and an action space."""

    observation_space: Space
    action_space: Space


@runtime_checkable
class AutoResetEnvironment(Protocol):
    """The least that an environment must provide: ``reset``, and a ``step`` that resets when an episode ends.

    Environments and wrappers in the style of Brax can be used with these methods alone. The methods are pure functions,
    and neither of them changes ``params``.
    """

    def reset(self, key: Key, params: Task) -> tuple[Array, State]:
        """Start an episode of the task ``params``; return ``(obs, state)``."""
        ...

    def step(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        """Take one step, and reset the environment if the episode ends.

        Returns:
            ``(obs, state, reward, terminated, truncated, info)``. If the episode ended, ``obs`` and ``state`` are the
            first ones of the next episode. ``info["final_observation"]`` is always the observation after the action,
            before any reset.
        """
        ...

    def action_space(self, params: Task) -> Any:
        """Return the space of one action of the task ``params``."""
        ...

    def observation_space(self, params: Task) -> Any:
        """Return the space of one observation of the task ``params``."""
        ...


@runtime_checkable
class Environment(AutoResetEnvironment, Protocol):
    """An environment with the API of gymnax 1.x, which also provides a step without a reset.

    If the class of an environment has ``step_env`` and ``is_truncated``, trials of one episode call these instead of
    ``step``, because a vectorised ``step`` computes a reset at every step. All other trials call ``step``. The
    environment therefore promises that ``step`` is ``step_env``, followed by ``reset`` if ``step_env`` returns
    ``terminated`` or ``is_truncated`` returns true, as in gymnax's base class.

    A class that inherits ``step_env`` and overrides ``step`` would break this promise: it must override ``step_env`` as
    well, or set ``step_env = None``, after which ``step`` is called in all trials. ``family_checks.check_shapes``
    refuses such a class. A wrapper that forwards ``step_env`` by ``__getattr__`` does not have it in its class, so only
    its ``step`` is called.
    """

    def step_env(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, dict[Any, Any]]:
        """Take one step without a reset; return ``(obs, state, reward, terminated, info)``."""
        ...

    def is_truncated(self, state: State, params: Task) -> Array:
        """Return whether the episode has reached its time limit, given the state after a step."""
        ...


@runtime_checkable
class HostEnvironment(AutoResetEnvironment, Protocol):
    """An environment whose state is on the host, so that it must know when a trial is over.

    ``rollout.trial`` calls these methods.
    """

    def mark_over(self, state: State, over: Array) -> State:
        """Return the state of a trial that is over if ``over`` is true. Its further steps do nothing."""
        ...

    def release(self, state: State) -> None:
        """Give up the state of a trial, after its last step."""
        ...


class TaskDistribution(NamedTuple):
    """A distribution over tasks, p(T). Each function draws one task.

    Learners are trained on training tasks. Settings and checkpoints are chosen by scores on validation tasks. Results
    are reported on held-out tasks, and nothing is chosen by them.
    """

    sample: Callable[[Key], Task]
    """Draws a training task."""
    sample_heldout: Callable[[Key], Task]
    """Draws a held-out task. They are disjoint from the training tasks if the published split is."""
    sample_validation: Callable[[Key], Task] | None = None
    """Draws a validation task. Validation tasks are like training tasks; where the split is finite, none of them is a
    held-out task. None: ``sample`` draws validation tasks, with random keys that training does not use."""

    training: Task | None = None
    """``[N, ...]``: all training tasks, if there are finitely many. None: there are infinitely many, or they are not
    listed."""

    def sample_distinct(self, key: Key, number: int) -> Task:
        """Draw ``number`` training tasks, ``[number, ...]``.

        If ``training`` lists them, no task is drawn twice before all were drawn. Otherwise the draws are independent.
        """
        if self.training is None:
            return jax.vmap(self.sample)(jax.random.split(key, number))
        tasks = len(jax.tree.leaves(self.training)[0])
        rounds = jax.random.split(key, -(-number // tasks))
        order = jax.vmap(lambda key: jax.random.permutation(key, tasks))(rounds).reshape(-1)[:number]
        return jax.tree.map(lambda x: x[order], self.training)

    @property
    def validation(self) -> Callable[[Key], Task]:
        """Return the function that draws validation tasks."""
        return self.sample if self.sample_validation is None else self.sample_validation


class Outcomes(NamedTuple):
    """The distribution of the reward of one pull of an arm, which takes one of ``O`` values."""

    reward: Array
    """``[O]``: the possible rewards."""
    probability: Array
    """``[O]``: the probability of each reward."""


class Arm(NamedTuple):
    """Bayesian inference about ONE arm of a bandit, for bandits whose arms are independent and identically distributed.

    The prior is the distribution of an arm over training tasks. The belief about an arm changes only when that arm is
    pulled (Gittins 1979), so the beliefs about all arms together are the state of the bandit's Bayes-adaptive MDP. A
    belief is a tree of arrays.
    """

    prior: Any
    """The belief before the first pull."""
    observe: Callable[[Any, Array], Any]
    """``(belief, reward of a pull) -> belief``: the posterior after one more pull of this arm."""
    outcomes: Callable[[Any], Outcomes]
    """``belief -> Outcomes``: the predictive distribution of the reward of the next pull of this arm."""
    features: Callable[[Any], Array]
    """``belief -> [F]``: the belief as the input of a network, with entries of order one."""


class Privileged(NamedTuple):
    """Privileged information about training tasks: a simulator has it, and the deployed learner never observes it.

    Algorithms may use it in training, for the targets of a loss or as the input of a critic (asymmetric learning: Pinto
    et al. 2018, arXiv 1710.06542). Policies never receive it, and no reported return is computed from it. Every member
    is optional.
    """

    training_reward: Callable[[Task, Transition, float], Array] | None = None
    """``(task, whole episodes [T, ...], discount) -> [T]``: rewards that are computed from the task. They reward the
    same goal as the environment's rewards, and are denser (Rakelly et al. 2019, section 6.3) or have a lower variance.
    PEARL's critics learn from them; RL² and VariBAD learn from them if ``training_reward`` of their configuration is
    "task"."""
    belief_reward: Callable[[Transition, float], Array] | None = None
    """``(whole trial [T, ...], discount) -> [T]``: the expectation of ``training_reward`` under the posterior over
    tasks, given the steps of the trial before each step. These are the rewards of the Bayes-adaptive MDP (Zintgraf et
    al. 2020, section 2.2). They are for algorithms whose returns and memories span whole trials."""
    optimal_action: Callable[[Task, Transition], Array] | None = None
    """``(task, whole trial [T, ...]) -> [T]``: an action of an optimal policy of the known task, at each step of the
    trial, given the steps before it. The Decision-Pretrained Transformer is trained to predict it."""
    arm: Arm | None = None
    """Bayesian inference about an arm, if the tasks are bandits with independent, identically distributed arms that pay
    one of finitely many rewards. Every action is the pull of such an arm."""


class EnvFamily(NamedTuple):
    """A family of reinforcement-learning tasks that share spaces and dynamics up to their parameters."""

    env: AutoResetEnvironment
    """The environment: an ``Environment``, or an ``AutoResetEnvironment`` without further methods."""
    tasks: TaskDistribution
    horizon: int
    """The largest number of steps of an episode. It is static, whereas gymnax's own limit is a traced value."""
    observation_space: Space
    action_space: Space
    optimal_return: Callable[[Task], Array] | None = None
    """``task ->`` the expected return per episode of the optimal policy for the *known* task. Regret is the difference
    from it. None: it is not known."""
    privileged: Privileged | None = None
    """Privileged information about training tasks. None: there is none."""
    success: Callable[[Task, Transition], Array] | None = None
    """``(task, one step) -> bool``: whether the step reaches the goal of the task. An episode with such a step is a
    success. None: success is not defined for these tasks."""
    render: Callable[[State, Task], Any] | None = None
    """``(state, task) ->`` a picture of an environment's state for videos, an array ``[H, W, 3]`` of uint8. The
    function gets the state as NumPy arrays, and is not traced. None: the environment may have a method ``draw``
    (``environments.drawing``); otherwise, videos show the observation, the action and the reward over time."""


class Inputs(NamedTuple):
    """The inputs of a meta-reinforcement-learning policy at one step (Duan et al. 2016, section 2.2).

    At the first step of a trial the previous action, reward and done are zero. Networks use ``first`` to distinguish
    the missing action from the action zero: the encoding of a missing action is zero.
    """

    obs: Array
    prev_action: Array
    prev_reward: Array
    prev_done: Array
    """Whether the previous step ended an episode, not necessarily the trial."""
    first: Array
    """Whether this is the first step of the trial."""


class Output(NamedTuple):
    """The output of a policy at one step."""

    distribution: Any
    """A distribution over actions (``ops.distributions``)."""
    value: Array
    """The critic's raw output, a scalar. Its unit depends on the algorithm."""
    features: Array | None = None
    """``[F]``: the vector from which the network computes the distribution and the value, for auxiliary losses. None:
    the network does not provide it."""


class Policy(NamedTuple):
    """A network that acts. Every function except ``unroll`` handles one trial; use ``vmap`` for several trials."""

    init: Callable[[Key], Params]
    initial_carry: Callable[[Params], Carry]
    """The memory at the first step of a trial; ``()`` for a feed-forward network."""
    step: Callable[[Params, Carry, Inputs], tuple[Carry, Output]]
    unroll: Callable[[Params, Carry, Inputs], tuple[Carry, Output]]
    """``step`` over inputs ``[T, ...]``. It equals ``lax.scan`` of ``step``, gradients included, but may be faster.

    With inputs ``[T, B, ...]`` and a carry ``[B, ...]`` of B trials it equals ``vmap`` over these trials, but is
    faster: the sum over steps and trials in the gradient of the weights is one matrix product.
    """
    critic: bool = True
    """Whether ``Output.value`` is the output of a critic. Otherwise it has no meaning."""
    spaces: tuple[Space, Space | None] | None = None
    """The observation space and the action space that the network was made for. Algorithms compare them with the spaces
    of the family. None: nothing is compared."""


class Transition(NamedTuple):
    """One environment step as the learner saw it.

    A trial is a ``Transition`` whose leaves have a leading axis ``[T]``.
    """

    inputs: Inputs
    action: Array
    reward: Array
    terminated: Array
    """Whether the episode ended by its own rules."""
    truncated: Array
    """Whether the episode ended because of its time limit."""
    final_obs: Array
    """The observation after the action, before any reset."""
    episode: Array
    """The index, within the trial, of the episode that this step belongs to."""
    valid: Array
    """Whether the step belongs to an episode. It is False after the end of the trial's last episode, because episodes
    may be shorter than the horizon."""
    output: Any
    """The values that the acting function recorded (log-probability, value, ...)."""


class Adaptation(NamedTuple):
    """The result of adaptation to one task."""

    score: Array
    """``[E]``: the return (or accuracy) of each adaptation episode (or gradient step)."""
    learner: Any = ()
    """The learner after adaptation: adapted parameters, a recurrent carry, or a posterior."""
    success: Array | None = None
    """``[E]``: the share of successful episodes at each stage (``EnvFamily.success``). None: success is not defined for
    these tasks."""


class Acting(NamedTuple):
    """The functions by which a trained learner acts on one task, step by step. ``agents.Agent`` calls them.

    They compute the same as ``Algorithm.adapt`` in its rollouts. Each of them handles one task; use ``vmap`` for
    several tasks.
    """

    params: Callable[[State], Params]
    """``state ->`` the part of an algorithm's state that acting needs."""
    start: Callable[[Key, Params], Carry]
    """``(key, params) ->`` the memory at the start of a task."""
    act: Callable[[Key, Params, Carry, Inputs, Array], tuple[Carry, Array, Any]]
    """``(key, params, memory, inputs, final observation) -> (memory, action, record)``. The final observation is the
    one after the previous action, before any reset: it differs from ``inputs.obs`` where an episode ended. The record
    holds the values of this step that ``learn`` needs."""
    learn: Callable[[Params, Carry, Transition], Carry] | None = None
    """``(params, memory, episodes [E, H, ...]) -> memory``: one step of adaptation to whole episodes that ``act``
    played. ``Transition.output`` contains their records. None: the learner adapts while it acts."""
    final_observation: bool = False
    """Whether the learner uses the final observation of an episode."""


class Predicting(NamedTuple):
    """The functions by which a trained few-shot learner predicts on one task. ``few_shot_learner.FewShotLearner`` calls
    them.

    They compute the same as ``Algorithm.adapt``. Each of them handles one task; use ``vmap`` for several tasks.
    """

    params: Callable[[State], Params]
    """``state ->`` the part of an algorithm's state that adaptation needs."""
    adapt: Callable[[Key, Params, tuple[Array, Array]], Carry]
    """``(key, params, support (x [N, ...], y [N, ...])) -> memory``: adapt to the labelled examples of a task. The key
    chooses the examples of each step, if a step gets only some of them."""
    predict: Callable[[Params, Carry, Array], Array]
    """``(params, memory, x [Q, ...]) -> prediction [Q, outputs]``."""
    most_examples: int | None = None
    """The largest number of labelled examples that the learner uses. None: there is no limit."""


class Algorithm(NamedTuple):
    """A meta-learning algorithm: pure functions that are closed over problem, network and configuration."""

    init: Callable[[Key], State]
    step: Callable[[Key, State], tuple[State, Metrics]]
    """One meta-iteration over a batch of tasks; metrics are float scalars."""
    adapt: Callable[[Key, State, Task], Adaptation]
    """``(key, state, task) -> Adaptation``: adapt to one task as the deployed learner does."""
    iterations: int | None = None
    """The number of meta-iterations of a whole run, over which schedules extend. None: the algorithm does not define
    it."""
    stage: str = "episode"
    """The stage that each score of ``adapt`` belongs to: "episode", or "gradient step", where the first score is that
    before any gradient step."""
    acting: Acting | None = None
    """The functions by which the learner acts step by step. None: the learner does not act (few-shot tasks), or does
    not provide them."""
    predicting: Predicting | None = None
    """The functions by which a few-shot learner predicts. None: the learner acts, or does not provide them."""


class Oracle(NamedTuple):
    """A learner that was not meta-trained. ``meta_test`` evaluates it in the same way as an ``Algorithm``."""

    name: str
    adapt: Callable[[Key, State, Task], Adaptation]
    """``(key, (), task) -> Adaptation`` with ``score [E]``. The state is not used."""
    stage: str = "episode"
    """The stage that each score belongs to, "episode" or "gradient step" (see ``Algorithm.stage``)."""
    play: Callable[[Key, Task], Transition] | None = None
    """``(key, task) ->`` the steps ``[T, ...]`` of one trial, as ``adapt`` plays it, for learners that imitate this one
    (``algorithms.algorithm_distillation``). None: the steps are not provided."""


class RunState(NamedTuple):
    """The complete state of a run. A run that is resumed from it equals an uninterrupted one."""

    step: Array
    """The number of completed meta-iterations, an ``int32`` scalar."""
    key: Key
    algorithm: State
