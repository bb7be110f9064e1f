"""What gradient-based algorithms see: ``InnerProblem``, made of a family of tasks and a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from metarl_jax.types import Array, Episode, FewShot, InnerProblem, Key, Params, Predictor, Task, TaskDistribution


def few_shot(family: FewShot, network: Predictor) -> InnerProblem:
    """Few-shot supervised learning.

    A task of this problem is an ``Episode``, drawn whole, so that support and query are disjoint whatever is asked
    for later: inner steps adapt on all of its support, and its query is seen by the outer loss and the score only.
    """

    def episodes(draw_task: Callable[[Key], Task]) -> Callable[[Key], Episode]:
        def sample(key: Key) -> Episode:
            key_task, key_draw = jax.random.split(key)
            return family.draw(key_draw, draw_task(key_task))

        return sample

    def support(key: Key, params: Params, task: Episode) -> Any:
        del key, params
        return task.support

    def query(key: Key, params: Params, task: Episode) -> Any:
        del key, params
        return task.query

    def loss(params: Params, batch: tuple[Array, Array]) -> Array:
        x, y = batch
        return family.loss(network.apply(params, x), y)

    def score(params: Params, batch: tuple[Array, Array]) -> Array:
        x, y = batch
        return family.score(network.apply(params, x), y)

    tasks = TaskDistribution(episodes(family.tasks.sample), episodes(family.tasks.sample_heldout))
    return InnerProblem(tasks, network.init, support, query, loss, loss, score)
