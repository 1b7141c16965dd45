"""Checkpoints: what is restored is what was saved, or it is named and passed over."""

import os
import re
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


def test_one_flipped_bit_in_any_file_is_named_and_the_checkpoint_before_is_used(tmp_path, tree):
    checkpoints.save(tmp_path, 1, tree, {"epoch": 1})
    path = checkpoints.save(tmp_path, 2, tree, {"epoch": 2})
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 8
    rng = np.random.default_rng(0)
    for file in files:
        original = file.read_bytes()
        assert original
        name = re.escape(str(file.relative_to(path)))
        wanted = "damaged" if file.name == "manifest.json" else rf"step_00000002 is damaged \('{name}' does not match"
        bits = rng.choice(8 * len(original), min(8 * len(original), 40), replace=False).tolist()
        for bit in bits:  # by the manifest alone
            file.write_bytes(flipped(original, bit))
            assert checkpoints.find_damage(path) is not None, (file, bit)
        with pytest.warns(UserWarning, match=wanted):
            restored = checkpoints.restore(tmp_path, tree)
        assert restored is not None and restored.metadata == {"epoch": 1}
        file.write_bytes(original)
    assert checkpoints.find_damage(path) is None


def flipped(contents, bit):
    changed = bytearray(contents)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_file_that_cannot_be_read_is_damage(tmp_path, tree, monkeypatch):
    """As a bad sector is."""
    checkpoints.save(tmp_path, 1, tree, {})
    checkpoints.save(tmp_path, 2, tree, {})
    sha256 = checkpoints._sha256

    def bad_sector(file):
        if "step_00000002" in str(file) and file.name == "metadata.json":
            raise OSError(5, "Input/output error", str(file))
        return sha256(file)

    monkeypatch.setattr(checkpoints, "_sha256", bad_sector)
    with pytest.warns(UserWarning, match=r"is damaged \(.*metadata.json cannot be read: Input/output error\)"):
        restored = checkpoints.restore(tmp_path, tree)
    assert restored is not None and restored.step == 1


def test_damaged_later_checkpoints_do_not_take_the_place_of_new_ones(tmp_path, tree):
    """A run that resumed from before them saves earlier steps than theirs."""
    for step in (1, 8, 9):
        path = checkpoints.save(tmp_path, step, tree, {}, keep=3)
        if step > 1:
            (path / "manifest.json").unlink()
    checkpoints.save(tmp_path, 2, tree, {})
    assert checkpoints.steps(tmp_path) == [1, 2]
    checkpoints.save(tmp_path, 9, tree, {"again": True}, keep=1)
    checkpoints.save(tmp_path, 9, tree, {"again": False}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000009"]
    assert checkpoints.read_metadata(tmp_path / "step_00000009") == {"again": False}
    checkpoints.save(tmp_path, 3, tree, {}, keep=1)  # one that is whole is never removed for being later
    assert checkpoints.steps(tmp_path) == [3, 9]


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


@pytest.mark.parametrize("place", ["_check_room", "_write_manifest", "_sync"])
def test_a_failed_save_leaves_what_was_there(tmp_path, tree, monkeypatch, place):
    checkpoints.save(tmp_path, 1, tree, {"epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, place, full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, 2, tree, {"epoch": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_room_is_looked_for_before_anything_is_written(tmp_path, tree, monkeypatch):
    asked = []

    def full(descriptor, start, length):
        asked.append(length)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*step_00000001.*room'$"):
        checkpoints.save(tmp_path, 1, {"a": np.zeros((1000, 1000), np.float32)}, {})
    assert asked[0] >= 4_000_000 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings, words", [({"step": -1}, "step"), ({"step": 1, "keep": 0}, "keep")])
def test_bad_numbers_are_named(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        checkpoints.save(tmp_path, settings.pop("step"), {}, {}, **settings)


def test_a_directory_is_one_runs_at_a_time(tmp_path):
    with checkpoints.exclusive(tmp_path / "run") as check:
        check()
        message = f"^directory must not be in use by another run, got .*run, which process {os.getpid()} writes$"
        with pytest.raises(ValueError, match=message), checkpoints.exclusive(tmp_path / "run"):
            pass
        with checkpoints.exclusive(tmp_path / "other"):
            pass
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        (tmp_path / "run").mkdir()
        with pytest.raises(FileNotFoundError, match="must stay where it is: .*run'$"):
            check()
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
