"""Checkpoints: what is restored is what was saved, or it is named and passed over."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseq import LSTM, checkpoints


@pytest.fixture
def tree():
    params = LSTM(4).init(jax.random.key(0), 3)
    return {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "keys": jax.random.split(jax.random.key(1), 2),
        "step": jnp.int32(7),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
    }


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_round_trip_keeps_every_bit_and_the_structure(tmp_path, tree):
    checkpoints.save(tmp_path, 3, tree, {"epoch": 1, "loss": 0.1 + 0.2})
    restored = checkpoints.restore(tmp_path, jax.eval_shape(lambda: tree))
    assert restored is not None
    assert (restored.step, restored.metadata) == (3, {"epoch": 1, "loss": 0.1 + 0.2})
    same(restored.tree, tree)


def test_the_newest_are_kept_and_leftovers_removed(tmp_path, tree):
    (tmp_path / ".step_00000001.killed").mkdir()
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, tree, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.restore(tmp_path / "nowhere", {}) is None


def test_one_flipped_bit_in_any_file_is_noticed(tmp_path, tree):
    path = checkpoints.save(tmp_path, 1, tree, {"epoch": 1})
    files = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]
    assert len(files) > 3
    for file in files:
        original = file.read_bytes()
        middle = len(original) // 2
        file.write_bytes(original[:middle] + bytes([original[middle] ^ 1]) + original[middle + 1 :])
        assert checkpoints.find_damage(path) is not None, file
        file.write_bytes(original)
    assert checkpoints.find_damage(path) is None


@pytest.mark.parametrize("damage", ["truncated", "missing", "added", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, tree, damage):
    checkpoints.save(tmp_path, 1, tree, {"epoch": 1})
    newest = checkpoints.save(tmp_path, 2, tree, {"epoch": 2})
    largest = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    if damage == "truncated":
        largest.write_bytes(largest.read_bytes()[:-1])
    elif damage == "missing":
        largest.unlink()
    elif damage == "added":
        (newest / "arrays" / "stranger").write_text("x")
    else:
        (newest / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="step_00000002 is damaged"):
        restored = checkpoints.restore(tmp_path, tree)
    assert restored is not None and restored.metadata == {"epoch": 1}
    same(restored.tree, tree)


def test_another_target_is_refused_by_name(tmp_path, tree):
    checkpoints.save(tmp_path, 1, tree, {})
    with pytest.raises(ValueError, match="half"):
        checkpoints.restore(tmp_path, {**tree, "half": jnp.zeros(4, jnp.bfloat16)})
    with pytest.raises(ValueError, match="half"):
        checkpoints.restore(tmp_path, {name: leaf for name, leaf in tree.items() if name != "half"})


def test_a_failed_save_leaves_what_was_there(tmp_path, tree, monkeypatch):
    checkpoints.save(tmp_path, 1, tree, {"epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_manifest", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, 2, tree, {"epoch": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.parametrize("settings, words", [({"step": -1}, "step"), ({"step": 1, "keep": 0}, "keep")])
def test_bad_numbers_are_named(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        checkpoints.save(tmp_path, settings.pop("step"), {}, {}, **settings)


def test_a_directory_is_one_runs_at_a_time(tmp_path):
    with checkpoints.exclusive(tmp_path / "run"):
        message = f"^directory must not be in use by another run, got .*run, which process {os.getpid()} writes$"
        with pytest.raises(ValueError, match=message), checkpoints.exclusive(tmp_path / "run"):
            pass
        with checkpoints.exclusive(tmp_path / "other"):
            pass
    with checkpoints.exclusive(tmp_path / "run"):
        pass


def test_the_lock_goes_with_a_killed_process(tmp_path):
    program = (
        f"from jaxseq.checkpoints import exclusive\nwith exclusive({str(tmp_path)!r}):\n print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        with pytest.raises(ValueError, match=f"process {holder.pid} writes$"), checkpoints.exclusive(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with checkpoints.exclusive(tmp_path):
            pass
