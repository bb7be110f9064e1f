"""Rings, delays and attention over a window, compared with their definitions."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.networks import linear_recurrence, snail, transformer, windows
from metarl_jax.types import Box, Discrete, Inputs, Policy, Spaces

ROWS, HEADS, KEY, VALUE = 4, 2, 3, 5


def written(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return query, key and value of each step."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(steps, HEADS, KEY)).astype(np.float32),
        rng.normal(size=(steps, HEADS, KEY)).astype(np.float32),
        rng.normal(size=(steps, HEADS, VALUE)).astype(np.float32),
    )


def by_definition(query: np.ndarray, key: np.ndarray, value: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """Return the softmax attention of each step to the last rows, its own row included."""
    read = np.zeros_like(value)
    for t in range(len(query)):
        seen = slice(max(0, t + 1 - rows), t + 1)
        for head in range(HEADS):
            scores = np.exp(key[seen, head] @ query[t, head] / KEY**0.5)
            read[t, head] = scores / scores.sum() @ value[seen, head]
    return read


@pytest.mark.parametrize("time", [0, 1, 3, 4, 5, 11])
def test_a_ring_is_the_last_steps(time: int) -> None:
    steps = np.zeros((20, 2), np.float32)
    steps[:time] = np.arange(1, 2 * time + 1).reshape(time, 2)
    line = jnp.concatenate([jnp.zeros((ROWS, 2)), steps[:time]])
    ring = windows.ring_of(line, jnp.int32(time), ROWS)
    np.testing.assert_array_equal(windows.in_order(ring, jnp.int32(time)), line[-ROWS:])
    for t in range(max(0, time - ROWS), time):
        np.testing.assert_array_equal(ring[t % ROWS], steps[t])


def test_a_delay_returns_the_row_written_that_many_steps_ago() -> None:
    line = jnp.arange(1.0, 23.0).reshape(11, 1, 2) * jnp.array([1.0, -1.0])[None, :, None]
    ring, got, time = jnp.zeros((2, ROWS, 2)), [], jnp.zeros(2, jnp.int32)
    for part in (line[:3], line[3:4], line[4:]):
        ring, arrived = windows.delay(ring, time, part)
        time += len(part)
        got.append(arrived)
    expected = np.concatenate([np.zeros((ROWS, 2, 2)), line[:-ROWS]])
    np.testing.assert_array_equal(jnp.concatenate(got), expected)


@pytest.mark.parametrize("cut", [0, 2, 7])
def test_attention_is_over_the_last_steps(cut: int) -> None:
    """Some single steps and then ``unroll`` for the rest equal attention by its definition."""
    query, key, value = written(13)
    window, read = windows.empty_window(ROWS, HEADS, KEY, VALUE), []
    for t in range(cut):
        window, one = windows.attend(window, jnp.int32(t), query[t], key[t], value[t])
        read.append(one)
    many = jax.tree.map(lambda x: x[None], window)
    rest = (jnp.asarray(x[cut:, None]) for x in (query, key, value))
    after, each = windows.attend_each(many, jnp.array([cut]), *rest)
    got = np.concatenate([np.array(read).reshape(cut, HEADS, VALUE), each[:, 0]])
    np.testing.assert_allclose(got, by_definition(query, key, value), rtol=1e-4, atol=1e-6)
    for t in range(13 - ROWS, 13):
        np.testing.assert_array_equal(after.keys[0, t % ROWS], key[t])
        np.testing.assert_array_equal(after.values[0, t % ROWS], value[t])


# So many steps are computed in parts, each as long as a window or longer.
@pytest.mark.parametrize(("rows", "steps"), [(ROWS, 4), (ROWS, 150), (70, 150), (windows.LEAST_PART, 128)])
def test_windows_of_trials_that_began_at_different_times(rows: int, steps: int) -> None:
    begun = [0, 5, rows + 3]
    query, key, value = written(max(begun) + steps)
    opened = []
    for begin in begun:
        rings = [np.zeros((rows, *x.shape[1:]), np.float32) for x in (key, value)]
        for t in range(begin):
            rings[0][t % rows], rings[1][t % rows] = key[t], value[t]
        opened.append(windows.Window(*map(jnp.asarray, rings)))
    together = jax.tree.map(lambda *x: jnp.stack(x), *opened)
    parts = (np.stack([x[b : b + steps] for b in begun], axis=1) for x in (query, key, value))
    after, read = windows.attend_each(together, jnp.array(begun), *map(jnp.asarray, parts))
    for trial, begin in enumerate(begun):
        expected = by_definition(query, key, value, rows)[begin : begin + steps]
        np.testing.assert_allclose(read[:, trial], expected, rtol=1e-4, atol=1e-6)
        for t in range(begin + steps - min(rows, steps), begin + steps):
            np.testing.assert_array_equal(after.keys[trial, t % rows], key[t])
            np.testing.assert_array_equal(after.values[trial, t % rows], value[t])


# ------------------------------------------------------------------------------------------- the networks on top

OBSERVATIONS, ACTIONS = Box(-1.0, 1.0, (2,)), Discrete(3)


def trial(steps: int) -> Inputs:
    keys = jax.random.split(jax.random.key(0), 3)
    return Inputs(
        obs=jax.random.normal(keys[0], (steps, 2)),
        prev_action=jax.random.randint(keys[1], (steps,), 0, 3),
        prev_reward=jax.random.normal(keys[2], (steps,)),
        prev_done=jnp.zeros(steps),
        first=jnp.arange(steps) == 0,
    )


def away_from_the_start(policy: Policy) -> Any:
    """Return parameters none of which is zero."""
    flat, structure = jax.flatten_util.ravel_pytree(policy.init(jax.random.key(1)))
    return structure(flat + 0.3 * jax.random.normal(jax.random.key(2), flat.shape))


def values(policy: Policy, inputs: Inputs) -> np.ndarray:
    params = away_from_the_start(policy)
    return np.asarray(jax.jit(policy.unroll)(params, policy.initial_carry(params), inputs)[1].value)


def reach(policy: Policy, steps: int) -> int:
    """Return how many steps before the last one the earliest reward is that the last value depends on."""
    inputs = trial(steps)
    params = away_from_the_start(policy)

    def last_value(reward: jax.Array) -> jax.Array:
        seen = inputs._replace(prev_reward=reward)
        return policy.unroll(params, policy.initial_carry(params), seen)[1].value[-1]

    matters = np.flatnonzero(jax.jit(jax.grad(last_value))(inputs.prev_reward))
    return steps - 1 - int(matters[0])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Convolutions reach 1 + 2 + 4 steps back, and attention reaches 6 - 1 steps further.
        (
            snail.make(
                Spaces(OBSERVATIONS, ACTIONS), snail.Settings(window=6, blocks=1, filters=4, key_size=3, value_size=3)
            ),
            7 + 5,
        ),
        (
            snail.make(
                Spaces(OBSERVATIONS, ACTIONS), snail.Settings(window=4, blocks=2, filters=4, key_size=3, value_size=3)
            ),
            3 + 3 + 3,
        ),
        (
            snail.make(
                Spaces(OBSERVATIONS, ACTIONS),
                snail.Settings(window=5, blocks=1, filters=4, key_size=3, value_size=3, attention_first=True),
            ),
            4 + 7 + 4,
        ),
        (
            transformer.make(
                Spaces(OBSERVATIONS, ACTIONS), transformer.Settings(window=4, layers=1, model_size=8, heads=1)
            ),
            3,
        ),
        (
            transformer.make(
                Spaces(OBSERVATIONS, ACTIONS), transformer.Settings(window=4, layers=3, model_size=8, heads=1)
            ),
            3 * 3,
        ),
    ],
)
def test_how_far_a_memory_reaches_back(policy: Policy, expected: int) -> None:
    assert reach(policy, 18) == expected


def test_snail_s_convolutions_are_xla_s() -> None:
    """One convolution of kernel 2 and dilation 2, without the attention, equals XLA's convolution."""
    steps, channels, filters = 7, 3, 4
    module = snail._Convolution(filters)
    x = jax.random.normal(jax.random.key(0), (steps, channels))
    params = jax.tree.map(lambda p: p + 0.1, module.init(jax.random.key(1), x))
    now, later = cast("tuple[jax.Array, jax.Array]", module.apply(params, x))
    _, arrived = windows.delay(jnp.zeros((1, 2, 2 * filters)), jnp.zeros(1, jnp.int32), later[:, None])
    kernel = params["params"]["products"]["kernel"]
    kernel = jnp.stack([kernel[:, 2 * filters :], kernel[:, : 2 * filters]])
    expected = jax.lax.conv_general_dilated(
        x[None], kernel, (1,), [(2, 0)], rhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
    )[0]
    np.testing.assert_allclose(now + arrived[:, 0], expected + params["params"]["bias"], rtol=1e-4, atol=1e-5)


def test_rotary_products_depend_only_on_the_distance() -> None:
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 8))
    products = [
        float(jnp.vdot(transformer.rotate(query, jnp.float32(t + 3)), transformer.rotate(key, jnp.float32(t))))
        for t in (0, 5, 100)
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-4)
    other = jnp.vdot(transformer.rotate(query, jnp.float32(4)), transformer.rotate(key, jnp.float32(0)))
    assert abs(float(other) - products[0]) > 1e-3
    np.testing.assert_array_equal(transformer.rotate(query, jnp.float32(0)), query)


@pytest.mark.slow
def test_the_linear_memory_is_its_recurrence_and_is_reset_at_the_start_of_a_trial() -> None:
    drawn = np.random.default_rng(0).normal(size=(3, 2, 9, 2, 3)).astype(np.float32)
    driven, state, decay = (
        drawn[0, 0] + 1j * drawn[0, 1],
        drawn[1, 0, 0] + 1j * drawn[1, 1, 0],
        np.exp(1j * drawn[2, 0, 0, 0]),
    )
    decay, first = 0.9 * decay, np.zeros((9, 2), bool)
    first[4, 1] = True
    begin, expected = state, []
    for t in range(9):
        state = decay * np.where(first[t][:, None], 0, state) + driven[t]
        expected.append(state)

    def parts(x: np.ndarray) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(np.real(x), jnp.float32), jnp.asarray(np.imag(x), jnp.float32)

    def distance(way: Any, *arguments: Any) -> jax.Array:
        real, imaginary = way(arguments[0], first, *arguments[1:])
        return jnp.sum((real - 1) ** 2) + jnp.sum((imaginary - 1) ** 2)

    once = linear_recurrence.advance(parts(decay), first[0], parts(begin), parts(driven[0]))
    np.testing.assert_allclose(jax.lax.complex(*once), expected[0], rtol=1e-4)
    # The branch of other platforms has the same values and the same derivatives.
    derivatives = []
    for way in (linear_recurrence.prefix, linear_recurrence.sequential, linear_recurrence.at_once):
        states = way(parts(decay), jnp.asarray(first), parts(begin), parts(driven))
        np.testing.assert_allclose(jax.lax.complex(*states), np.stack(expected), rtol=1e-4, atol=1e-5)
        gradient = jax.grad(partial(distance, way), argnums=(0, 1, 2))
        derivatives.append(gradient(parts(decay), parts(begin), parts(driven)))
    for other in derivatives[1:]:
        for ours, theirs in zip(jax.tree.leaves(derivatives[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)

    policy = linear_recurrence.make(
        Spaces(OBSERVATIONS, ACTIONS), linear_recurrence.Settings(model_size=6, hidden_size=4)
    )
    inputs = trial(9)
    twice = inputs._replace(first=inputs.first.at[5].set(True))
    alone: Any = jax.tree.map(lambda x: x[5:], twice)
    np.testing.assert_allclose(values(policy, twice)[5:], values(policy, alone), rtol=1e-4, atol=1e-6)
    assert np.all(values(policy, inputs)[5:] != values(policy, alone))


def test_the_linear_memory_starts_with_the_spans_it_is_given() -> None:
    policy = linear_recurrence.make(
        Spaces(OBSERVATIONS, ACTIONS),
        linear_recurrence.Settings(model_size=4, hidden_size=400, least_memory=10.0, longest_memory=100.0),
    )
    layer = policy.init(jax.random.key(0))["params"]["stack_0"]
    modulus = np.exp(-np.exp(np.asarray(layer["log_rate"])))
    assert 0.9 <= modulus.min() < 0.91
    assert 0.98 < modulus.max() <= 0.99


@pytest.mark.parametrize(
    ("memory", "settings", "message"),
    [
        (snail, {"window": 0}, "window must be a positive whole number, not 0"),
        (snail, {"window": 5, "filters": -1}, "filters must be a positive whole number, not -1"),
        (transformer, {"window": 5, "heads": 3}, r"model_size \(64\) must be a multiple of 6 for 3 heads with rotary"),
        (transformer, {"window": 5, "positions": "sine"}, "positions must be one of rotary, learned, not 'sine'"),
        (linear_recurrence, {"least_memory": 1.0}, "least_memory must be a finite number above 1, not 1.0"),
        (linear_recurrence, {"longest_memory": 1.5}, r"longest_memory \(1.5\) must be above least_memory \(2.0\)"),
    ],
)
def test_bad_sizes_are_named(memory: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        memory.Settings(**settings)
