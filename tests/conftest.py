"""What must be set before JAX starts, and what several files of tests need."""

import contextlib
import os
import signal

import hypothesis

os.environ["KERAS_BACKEND"] = "jax"  # before the first `import keras`
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU, where there is one

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402  # no public setting reaches every compilation

# A shell without job control starts what it puts into the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

GET_COMPILE_OPTIONS = compiler.get_compile_options
# XLA's older emitters of code, which jaxlib 0.10 still has, and a program whole, not in parts for threads to compile.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}

# Only before the first array exists. A GPU, where there is one, stays the default platform.
jax.config.update("jax_num_cpu_devices", 8)
# On a GPU a float32 product has 10 bits of mantissa by default: too few for a tolerance of 1e-5.
jax.config.update("jax_default_matmul_precision", "highest")

# Everyone draws the same examples; `pytest --hypothesis-profile=default` draws others each time.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config):
    """Keeps compiled programs beside pytest's own cache: a second run takes a quarter of the first's time."""
    if jax.config.jax_compilation_cache_dir is None and hasattr(config, "cache"):  # -p no:cacheprovider
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Longest first: the last file to end is a short one. (By default xdist begins with the file of most tests.)
LONGEST = ("experiments", "recurrence", "peers", "devices", "killed", "derivatives", "training", "fused", "benchmarks")


def pytest_collection_modifyitems(items):
    """Orders the files, and leaves each file's tests in their order."""
    names = [f"test_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@contextlib.contextmanager
def _compiling(*, quickly):
    """While it lasts, programs are compiled so."""
    options = QUICK if quickly and jax.version.__version_info__ < (0, 11) else {}

    def get_compile_options(*args, env_options_overrides=None, **named):
        return GET_COMPILE_OPTIONS(*args, env_options_overrides=options | (env_options_overrides or {}), **named)

    before = jax.config.values["jax_disable_most_optimizations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", get_compile_options)
        jax.config.update("jax_disable_most_optimizations", quickly)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def compiled_quickly():
    """Less than half of a compilation's time, for tests of what is done with a program.

    LLVM's expensive passes are left out, and `QUICK` holds.
    Tests of the cells, beside peers, of invariants, of float32 that drifts, and of what is compiled run what users run.
    """
    with _compiling(quickly=True):
        yield


@pytest.fixture
def compiled_as_by_users():
    """Of one test, in a file that is `compiled_quickly`: bits that two programs share may differ in theirs."""
    with _compiling(quickly=False):
        yield


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """No implicit mixing of dtypes: what the engine promotes, it promotes on purpose."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """(dtype, tolerance of max|a - b| / max|b|), as issue 2 asks."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param, {"float32": 1e-5, "float64": 1e-12}[request.param]
