"""A clock that stands still while JAX compiles."""

import time

import jax
import jax.numpy as jnp

from earlyprune_jax.training import clock

SECONDS = 0.3


def slow_to_trace(inner):
    """A function that is traced in a time of its own, and calls another that is, too."""

    def slow(x):
        time.sleep(SECONDS)
        return inner(x) + 1

    return jax.jit(slow)


def test_compilation_is_counted_once_where_functions_call_each_other_and_never_again():
    step = slow_to_trace(slow_to_trace(slow_to_trace(jnp.sin)))
    started, compiled = time.monotonic(), clock.compile_seconds()
    step(jnp.float32(1)).block_until_ready()
    took, spent = time.monotonic() - started, clock.compile_seconds() - compiled
    # Three sleeps; added up function by function they would be six.
    assert 3 * SECONDS < spent < took
    compiled = clock.compile_seconds()
    step(jnp.float32(2)).block_until_ready()
    assert clock.compile_seconds() == compiled


def test_a_listener_hears_what_xla_compiles_and_when_it_has():
    def own_step(x):
        return 3 * x

    heard, x = [], jnp.ones(2)
    with clock.telling(lambda *told: heard.append(told)):
        jax.jit(own_step)(x)
    jax.jit(lambda x: x - 1)(x)
    assert heard == [("own_step", False), ("own_step", True)]
