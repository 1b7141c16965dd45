"""Real processes, stopped at any moment: what they resume to is what they would have come to, bit for bit."""

import contextlib
import dataclasses
import functools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from orbax import checkpoint as orbax

import experiments.__main__
import jaxseq
from experiments import catalogue, plots
from experiments.experiment import Data, Experiment, Request, Variant, tidy
from jaxseq import checkpoints, losses
from jaxseq.datasets.files import DataNotFound
from jaxseq.interrupts import interrupts_noted, interrupts_raised, lost_interrupts_sent_again

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 12, (60, 6)).astype(np.int32)
LABELS = (TOKENS[:, 0] < 6).astype(np.int32)


def load(synthetic, smoke):
    train, validation, test = (
        jaxseq.examples(TOKENS[rows], LABELS[rows]) for rows in (slice(0, 36), slice(36, 48), slice(48, 60))
    )
    return Data(train, validation, test, {"kind": "synthetic", "name": "tiny", "files": []}, encoding={"words": 12})


class BagOfWords(nn.Module):
    """Quick to compile; dropout, so that a wrong random key would show."""

    @nn.compact
    def __call__(self, tokens, *, train=False):
        means = nn.Embed(12, 2, name="embedding")(tokens).mean(axis=1)
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(means))


DOCUMENTED = Variant(
    load,
    BagOfWords(),
    losses.binary_cross_entropy,
    {"accuracy": losses.binary_accuracy},
    jaxseq.rmsprop(0.1),  # so fast that of three seeds one stops early, and the best epochs are not the last
    epochs=6,
    batch_size=8,
    patience=3,
)
TINY = Experiment("tiny", "none", "a model of 40 parameters", "nothing", variants=(DOCUMENTED,))


# In the processes that are stopped.


def serve():
    """Forks a process that runs the command line for every request on standard input; imports are paid for once."""
    import matplotlib.pyplot  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    from jax._src import xla_bridge

    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1  # else a fork is not safe
    assert not xla_bridge.backends_are_initialized()
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(writing, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.close(reading)
            os._exit(run(**json.loads(line)))
        os.close(writing)
        print(json.dumps(pid), flush=True)
        with open(reading, errors="replace") as errors:
            printed = errors.read()
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed]), flush=True)


def run(arguments, out, what, pattern, count):
    """`python -m experiments ARGUMENTS`; does `what` before its count-th operation on a file that matches a pattern."""
    catalogue.EXPERIMENTS["tiny"] = TINY
    jaxseq.fit.__kwdefaults__["save_every"] = 0.0
    plots.curves = lambda result, path: path.write_bytes(b"a picture")  # a second of the processor's, otherwise
    done = 0

    def watch(event, details):
        nonlocal done
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        path = details[1 if event == "os.rename" else 0]
        if isinstance(path, str | os.PathLike) and str(path).startswith(out) and re.search(pattern, str(path)):
            done += 1
            if done == count:
                do(what)

    sys.addaudithook(watch)
    try:
        code = experiments.__main__.main([*arguments, "--out", out])
    except BaseException:
        traceback.print_exc()
        code = 70
    print(f"operations {done}", file=sys.stderr, flush=True)
    return code


def do(what):
    """Sends a signal to this process, or lets no file grow any more."""
    if what == "fill":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    else:
        os.kill(os.getpid(), signal.Signals[what])


# In the test.


class Server:
    """Processes that run the command line, one at a time."""

    def __init__(self, cache):
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as conftest's `compiled_quickly`
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", "from tests.test_killed import serve; serve()"]
        root = Path(__file__).parent.parent
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )

    def run(self, out, seeds, *options, what="", pattern="", count=0, kill=None):
        """Runs the command line to its end: (exit code, lines on stderr, operations on files that match).

        `kill(pid)` is called once the process is there.
        """
        arguments = ["run", "tiny", "--data", "synthetic", "--seeds", str(seeds), *options]
        request = dict(arguments=arguments, out=str(out), what=what, pattern=pattern, count=count)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        pid = json.loads(self.process.stdout.readline())
        if kill is not None:
            kill(pid)
        code, printed = json.loads(self.process.stdout.readline())
        print(code, printed)  # for whom the test fails
        assert "Traceback" not in printed
        *lines, last = printed.splitlines() or [""]
        if last.startswith("operations "):
            return code, lines, int(last.split()[1])
        return code, [*lines, last], None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("cache"))
    with made.process:
        yield made
        made.process.stdin.close()


@pytest.fixture(scope="module")
def uninterrupted(server, tmp_path_factory):
    """By the number of seeds: what an uninterrupted run leaves, its seconds, its operations on files."""

    @functools.cache
    def run(seeds):
        out = tmp_path_factory.mktemp("uninterrupted")
        started = time.monotonic()
        code, _, operations = server.run(out, seeds)
        assert code == 0
        return what_is_left(out), time.monotonic() - started, operations

    return run


def latest(out):
    return out / "tiny" / "checkpoints" / "documented" / "latest"


def what_is_left(out):
    """Result, history, parameters, optimizer's state, best parameters: all but what a clock says."""
    result = json.loads((out / "tiny" / "result.json").read_text())
    for name in ("seconds", "training_seconds", "date"):
        del result[name]
    left = {"result": result}
    for name in ("latest", "best"):
        path = checkpoints.find_intact(latest(out).parent / name)
        metadata = checkpoints.read_metadata(path)
        metadata.get("run", {}).pop("seconds", None)
        with orbax.StandardCheckpointer() as checkpointer:
            shapes = {key: np.empty(one.shape, one.dtype) for key, one in metadata_of(checkpointer, path).items()}
            arrays = checkpointer.restore(path / "arrays", shapes)
        assert any("embedding" in key for key in arrays)
        left[name] = (path.name, metadata, {key: (array.dtype, array.tobytes()) for key, array in arrays.items()})
    assert any("opt_state" in key for key in left["latest"][2])
    half_done = [path for path in out.rglob(".*") if path.name != ".lock"]
    assert not half_done
    return left


def metadata_of(checkpointer, path):
    return checkpointer.metadata(path / "arrays").item_metadata.tree


def finish(server, out, seeds, expected):
    """Resumes to the end, and compares."""
    code, lines, _ = server.run(out, seeds, "--resume")
    assert code == 0
    assert what_is_left(out) == expected
    return lines


def last_step(left):
    return int(left["latest"][0][5:])


def newest_step(out):
    """A checkpoint that a kill damaged would warn, and warnings are errors here."""
    path = checkpoints.find_intact(latest(out))
    return -1 if path is None else int(path.name[5:])


def once_a_checkpoint_is_there(out, seconds):
    """Kills a process so many seconds later."""

    def kill(pid):
        before, ends = newest_step(out), time.monotonic() + 300
        while time.monotonic() < ends and max(checkpoints.steps(latest(out)), default=-1) <= before:
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)

    return kill


def test_some_seed_stops_early_and_the_best_epoch_is_not_the_last(uninterrupted):
    run = uninterrupted(3)[0]["latest"][1]["run"]
    assert any(run["stopped"]) and len({len(history["loss"]) for history in run["history"]}) > 1
    assert any(best < len(history["loss"]) for best, history in zip(run["best_epoch"], run["history"], strict=True))


def test_killed_three_times_one_seed_of_three_stopping_early(server, uninterrupted, tmp_path):
    """While training, while a checkpoint is written, while the result is written; see the soak below for more."""
    randomness = random.Random(0)
    expected = uninterrupted(3)[0]
    moments = [
        dict(kill=once_a_checkpoint_is_there(tmp_path, randomness.uniform(0, 0.3))),
        dict(what="SIGKILL", pattern=r"/\.?step_", count=randomness.randint(60, 120)),
        dict(what="SIGKILL", pattern=r"result\.json", count=2),
    ]
    step = -1
    for moment in moments:
        options = ["--resume"] if (tmp_path / "tiny").exists() else []
        assert server.run(tmp_path, 3, *options, **moment)[0] == -signal.SIGKILL
        assert newest_step(tmp_path) >= max(step, 0)
        step = newest_step(tmp_path)
    assert list((tmp_path / "tiny").glob(".result.json.*")) and not (tmp_path / "tiny" / "result.json").exists()
    finish(server, tmp_path, 3, expected)


@pytest.mark.soak
@pytest.mark.parametrize("seeds", [1, 3])
def test_killed_at_twenty_random_moments(server, uninterrupted, tmp_path, seeds):
    """Half of them by the clock, half before a file is opened, made, renamed or removed, anywhere in the run."""
    drawn = random.SystemRandom().randrange(2**32)
    print("random seed", drawn)
    randomness = random.Random(drawn)
    expected, seconds, operations = uninterrupted(seeds)
    kills, runs = 0, 0
    while kills < 20:
        out = tmp_path / str(runs)
        runs, step, code = runs + 1, -1, None
        while code != 0:
            moment = dict(what="SIGKILL", pattern="", count=randomness.randint(1, operations))
            if randomness.random() < 0.5:
                delay = randomness.uniform(0, seconds)
                moment = dict(kill=lambda pid, delay=delay: (time.sleep(delay), stop(pid)))
            options = ["--resume"] if (out / "tiny").exists() else []
            started = time.monotonic()
            code = server.run(out, seeds, *options, **moment)[0]
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            if code == 0:  # compiled programs are kept: the first run took longest
                seconds = min(seconds, time.monotonic() - started)
            assert newest_step(out) >= step, "a checkpoint was lost"
            step = newest_step(out)
        assert what_is_left(out) == expected
    print(kills, "kills in", runs, "runs")


def stop(pid):
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.kill(pid, signal.SIGKILL)


def test_sigterm_and_ctrl_c_save_at_once_and_say_how_to_go_on(server, uninterrupted, tmp_path):
    directory = latest(tmp_path).parent
    for number, options in ((signal.SIGTERM, []), (signal.SIGINT, ["--resume"])):
        step = newest_step(tmp_path)
        moment = dict(what=number.name, pattern=r"best/step_", count=2)  # in the midst of a save
        code, lines, _ = server.run(tmp_path, 1, *options, **moment)
        assert code == 128 + number
        assert lines[-1] == f"interrupted by {number.name}, saved in {directory}; --resume goes on from there"
        assert newest_step(tmp_path) > step
    code, lines, _ = server.run(tmp_path, 1)
    assert code == 2 and lines[-1].endswith("--resume goes on with it, --again starts over")
    # After the training, where nothing is left to save.
    expected = uninterrupted(1)[0]
    code, lines, _ = server.run(tmp_path, 1, "--resume", what="SIGTERM", pattern=r"curves\.png", count=1)
    assert code == 143 and newest_step(tmp_path) == last_step(expected)
    assert lines[-1].startswith("interrupted by SIGTERM, at once; --resume goes on from what was saved in ")
    finish(server, tmp_path, 1, expected)


def test_a_full_disk_is_one_line_and_loses_nothing(server, uninterrupted, tmp_path):
    code, lines, _ = server.run(tmp_path, 3, what="fill", pattern=r"/room$", count=9)  # in the fifth save
    directory, step = latest(tmp_path).parent, newest_step(tmp_path)
    expected = uninterrupted(3)[0]
    must = f"error: directory must be one that can be written, got {directory}: File too large"
    assert code == 1 and step > 0 and lines[-1] == f"{must}; --resume goes on from step {step}"
    code, lines, _ = server.run(tmp_path, 3, "--resume", what="fill", pattern=r"curves\.png", count=1)
    assert code == 1 and lines[-1] == f"error: File too large: {tmp_path / 'tiny' / 'result.json'}"
    assert newest_step(tmp_path) == last_step(expected) and not (tmp_path / "tiny" / "result.json").exists()
    lines = finish(server, tmp_path, 3, expected)
    assert any(f"resumed from {latest(tmp_path)}/{expected['latest'][0]}, after " in line for line in lines)


def test_a_second_signal_acts_at_once_and_one_that_nobody_answered_comes_again():
    with pytest.raises(jaxseq.Interrupted, match="SIGTERM, at once; --resume goes on from what was saved in runs$"):
        with interrupts_noted("runs") as received:
            signal.raise_signal(signal.SIGINT)
            assert received == [signal.SIGINT]
            signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as error:
        with interrupts_noted("runs"):
            signal.raise_signal(signal.SIGINT)
    assert type(error.value) is KeyboardInterrupt


class SignalWhereExceptionsAreIgnored:
    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_ends_in_a_callback_comes_again(number):
    with pytest.raises(jaxseq.Interrupted, match=number.name):
        with lost_interrupts_sent_again(), interrupts_raised("runs"):
            SignalWhereExceptionsAreIgnored(number)
            time.sleep(60)
    with pytest.raises(KeyboardInterrupt) as error:
        with lost_interrupts_sent_again():
            SignalWhereExceptionsAreIgnored(signal.SIGINT)
            time.sleep(60)
    assert type(error.value) is KeyboardInterrupt


def in_process(monkeypatch, *arguments, tiny=TINY):
    monkeypatch.setitem(catalogue.EXPERIMENTS, "tiny", tiny)
    return experiments.__main__.main(["run", "tiny", *arguments])


@pytest.fixture
def finished(tmp_path):
    """What a finished run leaves, as far as the next one cares, and what a killed one left beside it."""
    directory = tmp_path / "tiny"
    (directory / "checkpoints" / "documented").mkdir(parents=True)
    left = [".result.json.1", "checkpoints/documented/.encoding.json.1", ".replaced-1/latest"]
    for name in ("result.json", "checkpoints/documented/best/.step_00000001.abc/metadata.json", *left):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("{")
    return directory


def test_again_leaves_no_old_result_beside_a_run_that_may_be_killed(finished):
    tidy(finished, Request())
    assert sorted(path.name for path in finished.rglob("*")) == ["best", "checkpoints", "documented", "result.json"]
    tidy(finished, Request(again=True))
    assert not list(finished.iterdir())


def test_a_run_is_not_replaced_while_it_goes_on_nor_for_want_of_data(finished, monkeypatch, capsys):
    options = ["--again", "--out", str(finished.parent)]
    with checkpoints.exclusive(finished):
        assert in_process(monkeypatch, *options) == 2
    assert f"directory must not be in use by another run, got {finished}, which " in capsys.readouterr().err

    def absent(synthetic, smoke):
        raise DataNotFound("no such file")

    assert in_process(monkeypatch, *options, "--data", "real", tiny=dataclasses.replace(TINY, data=absent)) == 2
    assert capsys.readouterr().err.endswith("error: no such file\n")
    assert (finished / "result.json").exists() and (finished / "checkpoints" / "documented").exists()
