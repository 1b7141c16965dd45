"""What must be set before JAX starts, and what several files of tests need."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # before the first `import keras`
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU, where there is one

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

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
LONGEST = ("experiments", "training", "attention", "devices", "long_work", "killed", "fused", "derivatives")


def pytest_collection_modifyitems(items):
    """Orders the files, and leaves each file's tests in their order."""
    names = [f"test_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


@pytest.fixture(scope="module")
def compiled_quickly():
    """LLVM's expensive passes left out: a quarter less time, where a test is of what is done with a program.

    Tests of the engine, and of what it compiles to, run what users run.
    """
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
