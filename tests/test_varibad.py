"""VariBAD: the paths of gradients, the buffer, and adaptation to held-out tasks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import equations

from metarl_jax import batching, ppo
from metarl_jax.algorithms import varibad
from metarl_jax.environments import gridnavi
from metarl_jax.interfaces.belief import BeliefNetworks
from metarl_jax.networks import belief
from metarl_jax.types import Algorithm, Privileged

FAMILY = gridnavi.make(3, 4)
SIZES: dict[str, Any] = {
    "episodes": 2, "trials": 4, "minibatches": 2, "epochs": 1, "iterations": 50, "buffer_trials": 12,
    "model_trials": 5, "model_updates": 1, "adaptation_episodes": 2,
}  # fmt: skip


def networks() -> BeliefNetworks:
    spaces = FAMILY.observation_space, FAMILY.action_space
    encoder = belief.encoder(*spaces, latent_size=2, hidden_size=5, embedding_size=6)
    decoder = belief.grid_decoder(FAMILY.observation_space, latent_size=2, hidden_sizes=(6,))
    return belief.combine(*spaces, encoder, decoder, latent_size=2, hidden_sizes=(7,))


def make(**settings: Any) -> Algorithm:
    return varibad.make(FAMILY, networks(), varibad.Config(**(SIZES | settings)))


ALGORITHM = make()
STEP, ADAPT = jax.jit(ALGORITHM.step), jax.jit(ALGORITHM.adapt)


@pytest.fixture(scope="module")
def start() -> varibad.State:
    return jax.jit(ALGORITHM.init)(jax.random.key(0))


def same(a: Any, b: Any) -> bool:
    return all(bool(jnp.all(x == y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_no_gradient_of_the_policy_reaches_the_encoder_nor_of_the_model_the_policy(start: varibad.State) -> None:
    """The training of encoder and decoder does not depend on the policy's objective, and the converse."""

    @jax.jit
    def after(learning_rate: jax.Array, model_rate: jax.Array) -> varibad.State:
        algorithm = make(learning_rate=learning_rate, model_learning_rate=model_rate, entropy_coefficient=0.3)
        return algorithm.step(jax.random.key(1), start)[0]

    one = after(jnp.float32(1e-3), jnp.float32(1e-3))
    other = after(jnp.float32(1e-1), jnp.float32(1e-3))
    assert same(one.model, other.model)
    assert not same(one.policy, other.policy)
    third = after(jnp.float32(1e-3), jnp.float32(1e-1))
    assert same(one.policy, third.policy)
    assert not same(one.model, third.model)


@pytest.mark.slow
def test_an_auxiliary_loss_trains_the_policy_and_not_the_belief(start: varibad.State) -> None:
    def loss(params: ppo.WithAuxiliary, output: Any, batch: ppo.Batch) -> Any:
        return jnp.sum(batch.weight * (output.features @ params.auxiliary) ** 2), {}

    config = varibad.Config(**SIZES)
    auxiliary = ppo.Auxiliary(loss, lambda key: jnp.ones(7))
    algorithm = varibad.make(FAMILY, networks(), config, auxiliary=auxiliary)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    assert same(state.policy.policy, start.policy)
    (with_it, _), (without, _) = jax.jit(algorithm.step)(jax.random.key(1), state), STEP(jax.random.key(1), start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), with_it.model, without.model)
    assert not same(with_it.policy.policy, without.policy)
    assert not same(with_it.policy.auxiliary, state.policy.auxiliary)


def test_the_buffer_is_a_ring_of_the_newest_trials(start: varibad.State) -> None:
    """With twelve places and four trials per iteration, the fourth iteration overwrites the trials of the first one."""
    states = [start]
    for i in range(4):
        states.append(STEP(jax.random.key(i), states[-1])[0])
    rows = [jax.tree.leaves(state.buffer) for state in states]
    for number, row in enumerate(rows[1:]):
        place = slice(4 * number % 12, 4 * number % 12 + 4)
        others = np.setdiff1d(np.arange(12), np.arange(12)[place])
        assert any(bool(jnp.any(new[place] != old[place])) for new, old in zip(row, rows[number], strict=True))
        for new, old in zip(row, rows[number], strict=True):
            np.testing.assert_array_equal(new[others], old[others])
    buffer = states[3].buffer
    assert bool(jnp.all(buffer.valid))
    np.testing.assert_array_equal(buffer.inputs.first, np.broadcast_to(np.arange(8) == 0, (12, 8)))
    np.testing.assert_array_equal(buffer.inputs.prev_reward[:, 1:], buffer.reward[:, :-1])


@pytest.mark.parametrize(("memories", "expected"), [(16, 16), (8, 8)])
def test_the_number_of_vectorised_trials_is_limited_by_the_cache_size_of_beliefs(
    memories: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = networks().encoder
    memory = jax.eval_shape(lambda key: encoder.initial_carry(encoder.init(key)), jax.random.key(0))
    size = sum(4 * x.size for x in jax.tree.leaves(memory))
    monkeypatch.setattr(batching, "CACHED_CARRIES", memories * size)
    algorithm = make(trials=16, buffer_trials=16, model_trials=3)
    key = jax.random.key(0)
    program = jax.make_jaxpr(lambda key, state: algorithm.step(key, state))(key, jax.eval_shape(algorithm.init, key))
    played = [e for e in equations(program.jaxpr) if e.primitive.name == "scan" and e.params["length"] == 8]
    widths = {v.aval.shape[0] for e in played for v in e.outvars if v.aval.shape[1:] == (5,)}
    assert widths - {3} == {expected}


def test_training_uses_only_trials_that_were_played(start: varibad.State) -> None:
    """Unwritten places of the buffer have no effect."""
    poisoned = start._replace(
        buffer=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if x.dtype == jnp.float32 else x, start.buffer)
    )
    clean, dirty = (STEP(jax.random.key(1), state)[0] for state in (start, poisoned))
    assert same(clean.model, dirty.model)
    # Stored trials have an effect.
    later = STEP(jax.random.key(2), clean)[0]
    changed = clean._replace(buffer=clean.buffer._replace(reward=1 - clean.buffer.reward))
    assert not same(later.model, STEP(jax.random.key(2), changed)[0].model)


def test_adaptation_uses_only_data_of_the_deployed_policy(start: varibad.State) -> None:
    """Adaptation depends on the networks' weights and the task's own trial only.

    NaN in all other parts of the state has no effect, and tasks with equal observations and rewards give equal results.
    """
    trained = STEP(jax.random.key(1), start)[0]

    def poison(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if x.dtype == jnp.float32 else x + 7, tree)

    poisoned = trained._replace(
        buffer=poison(trained.buffer),
        policy_optimizer=poison(trained.policy_optimizer),
        model_optimizer=poison(trained.model_optimizer),
        model=trained.model._replace(decoder=poison(trained.model.decoder)),
        iteration=trained.iteration + 5,
    )
    task = FAMILY.tasks.sample_heldout(jax.random.key(2))
    for seed in range(3):
        key = jax.random.key(seed)
        one, other = ADAPT(key, trained, task), ADAPT(key, poisoned, task)
        assert same(one, other)
        # Two goals that were not reached give the same belief.
        if float(jnp.max(one.score)) < -0.39:
            unreachable = task.replace(goals=task.goals + 50)
            assert same(one, ADAPT(key, trained, unreachable))
    # The test is not vacuous: the belief depends on the trial.
    found = [ADAPT(jax.random.key(0), trained, task.replace(goals=jnp.array([[x, y]]))) for x, y in gridnavi.goals(3)]
    assert any(not same(found[0].learner, other.learner) for other in found[1:])


def test_more_episodes_continue_the_same_trial(start: varibad.State) -> None:
    longer = make(adaptation_episodes=6)
    task = FAMILY.tasks.sample_heldout(jax.random.key(2))
    assert jax.eval_shape(longer.init, jax.random.key(0)) == jax.eval_shape(ALGORITHM.init, jax.random.key(0))
    score = jax.jit(longer.adapt)(jax.random.key(0), start, task).score
    assert score.shape == (6,)
    assert bool(jnp.all(jnp.isfinite(score)))


def test_most_likely_actions_do_not_depend_on_the_random_key(start: varibad.State) -> None:
    """GridNavi is deterministic, so a trial of most likely actions is the same for every key."""
    task = FAMILY.tasks.sample_heldout(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), 20)
    likely = make(deterministic=True)

    def trials(algorithm: Algorithm) -> int:
        """Return the number of different trials, by the memory at their ends."""
        adapted = jax.vmap(algorithm.adapt, (0, None, None))(keys, start, task)
        memories = np.concatenate([x.reshape(len(keys), -1) for x in jax.tree.leaves(adapted.learner)], axis=1)
        return len(np.unique(memories, axis=0))

    assert trials(likely) == 1
    assert trials(ALGORITHM) > 1


@pytest.mark.slow
def test_inputs_of_the_policy_are_normalised_including_beliefs() -> None:
    algorithm = make(normalise_observations=True)
    state = algorithm.init(jax.random.key(0))
    after, _ = jax.jit(algorithm.step)(jax.random.key(1), state)
    seen = after.policy.seen
    # Observations are one of nine cells, with mean and log standard deviation of two latent variables, of four trials.
    assert seen.mean.shape == (9 + 2 * 2,)
    assert seen.number == 4 * SIZES["episodes"] * FAMILY.horizon
    np.testing.assert_allclose(seen.mean[:9].sum(), 1, rtol=1e-5)
    # None of the statistics has a gradient.
    assert state.policy.seen.number == 0
    assert jax.tree.all(jax.tree.map(lambda x: not jnp.any(x), after.policy_optimizer[1].mu.seen))


def test_no_data_pass_between_host_and_device(start: varibad.State) -> None:
    """A meta-iteration under a guard that forbids transfers."""
    key, state = jax.random.key(1), STEP(jax.random.key(0), start)[0]
    with jax.transfer_guard("disallow"):
        after, metrics = STEP(key, state)
        jax.block_until_ready((after, metrics))
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            STEP(key, state._replace(iteration=np.int32(1)))
    assert int(after.iteration) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_updates", 0), ("model_trials", -1), ("buffer_trials", 1.5), ("model_learning_rate", 0.0),
     ("kl_weight", -0.1), ("kl_weight", float("nan")), ("adaptation_episodes", 0), ("discount", 1.5)],
)  # fmt: skip
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        make(**{field: value})


def test_the_ring_must_hold_whole_iterations() -> None:
    with pytest.raises(ValueError, match=r"buffer_trials \(10\) must be a multiple of trials \(4\)"):
        make(buffer_trials=10)


@pytest.mark.slow
def test_the_policy_is_trained_on_the_training_reward_and_the_model_on_the_environment_reward(
    start: varibad.State,
) -> None:
    family = FAMILY._replace(privileged=Privileged(training_reward=lambda task, t, discount: -t.reward))

    def after(**settings: Any) -> varibad.State:
        algorithm = varibad.make(family, networks(), varibad.Config(**(SIZES | settings)))
        return jax.jit(algorithm.step)(jax.random.key(1), start)[0]

    usual, other = after(), after(training_reward="task")
    assert same(usual.model, other.model)
    assert same(usual.buffer, other.buffer)
    assert not same(usual.policy, other.policy)
    with pytest.raises(ValueError, match=r'"task" needs a family with .*privileged\.training_reward'):
        make(training_reward="task")
