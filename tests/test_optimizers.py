"""RMSprop and Adam take Keras 3's steps, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxseq

SHAPES = {"kernel": (4, 3), "bias": (3,)}


def keras_steps(optimizer, start, gradients):
    import keras

    variables = [keras.Variable(start[name]) for name in SHAPES]
    optimizer.build(variables)
    steps = []
    for gradient in gradients:
        optimizer.apply([jnp.asarray(gradient[name]) for name in SHAPES], variables)
        steps.append([np.asarray(variable) for variable in variables])
    return steps


def our_steps(optimizer, start, gradients):
    params = {name: jnp.asarray(value) for name, value in start.items()}
    state = optimizer.init(params)
    steps = []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        steps.append([np.asarray(params[name]) for name in SHAPES])
    return steps


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
@pytest.mark.parametrize(  # at 1e-7 a gradient is as small as epsilon; of norms around 3.8, 3.5 clips some
    ("scale", "clip_norm"), [(1.0, None), (1e-4, None), (1e-7, None), (1.0, 3.5)]
)
def test_steps_are_those_of_keras(name, scale, clip_norm):
    import keras

    rng = np.random.default_rng(0)
    start = {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}
    gradients = [
        {key: (scale * rng.normal(size=shape)).astype(np.float32) for key, shape in SHAPES.items()} for _ in range(30)
    ]
    keras_class = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}[name]
    theirs = keras_steps(keras_class(learning_rate=1e-2, global_clipnorm=clip_norm), start, gradients)
    ours = our_steps(getattr(jaxseq, name)(1e-2, clip_norm=clip_norm), start, gradients)
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for ours_, theirs_ in zip(a, b, strict=True):
            np.testing.assert_allclose(ours_, theirs_, rtol=2e-6, atol=2e-6, err_msg=f"step {step}")
    moved = max(float(np.abs(a - start[key]).max()) for a, key in zip(ours[-1], SHAPES, strict=True))
    assert moved > 4e-5  # twenty times the tolerance: the comparison is of steps that go somewhere


def test_adam_differs_from_optax_adam_where_epsilon_matters():
    """The reason for having our own: with gradients near epsilon the two part."""
    gradient = {"w": jnp.full((2,), 1e-6)}
    params = {"w": jnp.ones((2,))}
    first = []
    for optimizer in (jaxseq.adam(1e-3), optax.adam(1e-3, eps=1e-7)):
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        first.append(float(updates["w"][0]))
    assert abs(first[0] / first[1] - 1) > 0.1


def test_a_schedule_is_a_learning_rate():
    params = {"w": jnp.zeros((1,))}
    optimizer = jaxseq.adam(optax.piecewise_constant_schedule(1e-2, {1: 0.0}))
    state = optimizer.init(params)
    changes = []
    for _ in range(2):
        updates, state = jax.jit(optimizer.update)({"w": jnp.ones((1,))}, state)
        changes.append(float(updates["w"][0]))
    assert changes[0] == pytest.approx(-1e-2, rel=1e-4)
    assert changes[1] == 0


def test_frozen_modules_stay_and_the_others_take_the_same_steps():
    params = {"embedding": {"table": jnp.ones((3, 2))}, "head": {"kernel": jnp.ones((2, 1))}}
    gradients = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    frozen, plain = jaxseq.freeze(jaxseq.rmsprop(), ["embedding"]), jaxseq.rmsprop()
    state, plain_state = frozen.init(params), plain.init(params["head"])
    for _ in range(2):
        updates, state = frozen.update(gradients, state, params)
        expected, plain_state = plain.update(gradients["head"], plain_state)
        assert not updates["embedding"]["table"].any()
        np.testing.assert_array_equal(updates["head"]["kernel"], expected["kernel"])
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (3, 2) not in shapes  # no state is kept for what is not trained


def test_freezing_a_module_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"modules must be names in the parameters \['head'\], got 'embeding'"):
        jaxseq.freeze(jaxseq.rmsprop(), ["embeding"]).init({"head": jnp.ones(2)})
