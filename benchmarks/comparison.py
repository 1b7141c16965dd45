"""Several implementations on one piece of work: compiled, compared, then timed in turns.

A way of running:

  forward   outputs and final state
  gradient  the gradients of weights and inputs, one call from Python
  loop      the same as a training runs it: many steps in one program (PyTorch: a Python loop), each of which moves
            weights and inputs by a tiny multiple of their gradients; the time is that of one step

A placement: "one" device, or the batch "sharded" over all by `shard_map`. PyTorch has its own, "threads".
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from benchmarks import measuring, peers
from benchmarks.peers import OURS, PEERS, Data, Peer, Work
from jaxseq.epochs import sum_over_devices

WAYS = ("forward", "gradient", "loop")
WAY_TITLES = {**measuring.PASS_TITLES, "loop": "forward + backward in a training loop"}
PLACEMENTS = {"one": "one device", "sharded": "sharded"}
THREADS = "threads"
NOTES = {
    "forward": "outputs and final state, one call from Python",
    "gradient": "of weights and inputs, one call from Python: buffers over malloc's 32 MB are fresh pages each time",
    "loop": "the same inside one compiled loop of `loop_steps` steps (PyTorch: a Python loop) that move weights and "
    "inputs by 1e-9 of their gradients, as a training does; seconds are those of one step",
    "one": "on one device; XLA's threads inside it are as many as cores",
    "sharded": "the batch sharded by shard_map over as many devices as divide it, at most `devices`; left out where "
    "that is one",
    "threads": "PyTorch only, which has its own threads, as many as cores: the same time beside either placement",
    "seconds": measuring.NOTES["seconds"],
    "compile_seconds": measuring.NOTES["compile_seconds"],
    "memory": measuring.NOTES["memory"] + "; PyTorch has no such estimate",
    "difference": "max|a - b| / max|b| against jaxseq on one device, the greatest over all arrays, before any timing",
    "ratios": "a peer's time over jaxseq's: above 1 jaxseq is faster. lower is the peer's lower quartile over jaxseq's "
    "upper, upper the other way round; ahead where lower is above 1, behind where upper is below 1, else even",
}

TINY_RATE = 1e-9
CHECKED_RATE = 1024.0  # of the step that is compared: its change is the gradient, and drowns what it is taken from
_LOOP_SECONDS = (0.2, 4.0)  # a sample of a loop lasts: at least, and at most by our choice
_LOOP_STEPS = 8  # at least, so that what a call costs hardly counts


class Ratio(NamedTuple):
    """A peer's time over ours: above 1 we are faster."""

    median: float
    lower: float
    upper: float
    verdict: str  # ahead, even or behind

    def __str__(self) -> str:
        """`1.42 (1.31-1.55) ahead`."""
        return f"{self.median:.2f} ({self.lower:.2f}-{self.upper:.2f}) {self.verdict}"


class Compiled(NamedTuple):
    """One way of running an implementation."""

    compile_seconds: float | None  # None: nothing is compiled
    memory: dict[str, int] | None  # None: not known
    result: Callable[[], Any]  # runs it once; what it gives, in jaxseq's layout
    run: Callable[[int], Any]  # runs it; a loop takes so many steps


def ratio(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Ratio:
    """Compares two timings (a `Timing` as a dictionary)."""
    lower = theirs["lower_quartile"] / ours["upper_quartile"]
    upper = theirs["upper_quartile"] / ours["lower_quartile"]
    verdict = "ahead" if lower > 1 else "behind" if upper < 1 else "even"
    return Ratio(theirs["median"] / ours["median"], lower, upper, verdict)


def find(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What jaxseq and the peers asked for are: title, note, and version, or why one is `missing`."""
    found = {}
    for name in (OURS, *names):
        peer = PEERS[name]
        found[name] = {"title": peer.title, "note": peer.note}
        try:
            peer.load()
            found[name]["version"] = peer.version()
        except peers.Missing as missing:
            found[name]["missing"] = str(missing)
            measuring.progress(f"{peer.title}: {missing}")
    return found


def peers_list(found: Mapping[str, Mapping[str, str]]) -> str:
    """What `find` found, as a Markdown list."""
    return "\n".join(
        f"- {peer['title']} {peer['version']}: {peer['note']}"
        if "version" in peer
        else f"- {peer['title']}: MISSING: {peer['missing']}"
        for peer in found.values()
    )


def work_of(case: Mapping[str, Any]) -> Work:
    """The work of a case, which has its fields; JSON knows no tuples."""
    work = Work(*(case[field] for field in Work._fields))
    return work._replace(hidden=tuple(work.hidden))


def failures(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What went wrong, or was not equal, in cases with `implementations`."""
    return [
        f"{PEERS[name].title if name in PEERS else name}, {work_of(case)}: {found['failed']}"
        for case in cases
        for name, found in case.get("implementations", {}).items()
        if "failed" in found
    ]


def measure_work(
    work: Work,
    candidates: Mapping[str, Peer],
    *,
    ways: Sequence[str],
    placements: Mapping[str, int],
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    """Compiles, compares and times implementations on one piece of work.

    Args:
      work: what they compute.
      candidates: what is compared, by name, all installed; the first is the reference of the others.
      ways: of WAYS.
      placements: how many devices each of PLACEMENTS takes.
      repeats: samples of each.
      seconds: no new round of samples begins after so many, but `measuring.LEAST_ROUNDS` are always taken.
    Returns:
      {"loop_steps", "implementations"}: for each name {"cannot": why}, {"failed": what happened}, or for every way and
      placement compile_seconds, memory, difference and seconds.
    """
    placed = _Placed(peers.draw(work))
    found: dict[str, dict[str, Any]] = {}
    compiled: dict[tuple[str, str, str], Compiled] = {}
    references: dict[str, Any] = {}
    first = next(iter(candidates))
    for name, peer in candidates.items():
        reason = peer.reason(work)
        if reason:
            found[name] = {"cannot": reason}
            continue
        measuring.progress(f"  compiling and comparing {peer.title}")
        try:
            found[name], programs = _compile_and_compare(peer, work, placed, ways, placements, references)
        except Exception as error:
            if name == first:
                raise
            found[name] = {"failed": measuring.describe_error(error)}
            measuring.progress(f"  {peer.title}: {found[name]['failed']}")
            continue
        compiled |= {(name, *where): program for where, program in programs.items()}

    measuring.progress("  timing")
    return time_in_turns(found, {key: one.run for key, one in compiled.items()}, repeats, seconds)


def time_in_turns(
    found: dict[str, Any], runs: Mapping[tuple[str, str, str], Callable[[int], Any]], repeats: int, seconds: float
) -> dict[str, Any]:
    """Times what was compiled and compared, and adds `seconds` to what was found of each.

    Args:
      found: of each name, for every way and placement; added to.
      runs: by (name, way, placement), each takes so many steps; all loops as many, set by the first on one device.
      repeats: samples of each.
      seconds: as in `measure_work`.
    Returns:
      {"loop_steps", "implementations"}.
    """
    loops = [run for (_, *where), run in runs.items() if where == ["loop", "one"]]
    steps = loop_steps(measuring.seconds_per_call(functools.partial(loops[0], 1), 1)) if loops else 1
    steps_of = {way: steps if way == "loop" else 1 for way in WAYS}
    calls = {key: functools.partial(run, steps_of[key[1]]) for key, run in runs.items()}
    for (name, way, placement), timing in measuring.time_interleaved(calls, repeats, seconds=seconds).items():
        found[name][way][placement]["seconds"] = timing.of_one(steps_of[way])._asdict()
    return {"loop_steps": steps, "implementations": measuring.rounded(found)}


def loop_steps(seconds: float) -> int:
    """How many steps of so many seconds a sample of a loop takes."""
    shortest, longest = _LOOP_SECONDS
    wanted = max(_LOOP_STEPS, math.ceil(shortest / seconds))
    return max(1, min(wanted, int(longest / seconds)))


def take_steps(gradient: Callable[[Any], Any], moved: Any, rate: jax.Array, steps: jax.Array) -> Any:
    """A training loop: what is moved, after so many steps by `rate` times its gradient."""

    def step(_: Any, moved: Any) -> Any:
        return jax.tree.map(lambda leaf, slope: leaf - rate * slope, moved, gradient(moved))

    return jax.lax.fori_loop(0, steps, step, moved)


def view_title(way: str, placement: str) -> str:
    """Of one of WAYS and one of PLACEMENTS, in words."""
    return f"{WAY_TITLES[way]}, {PLACEMENTS[placement]}"


def placements(batch: int, devices: int) -> dict[str, int]:
    """How many devices each of PLACEMENTS takes: sharded as many as divide the batch, left out where that is one."""
    most = max(number for number in range(1, devices + 1) if batch % number == 0)
    return {"one": 1, "sharded": most} if most > 1 else {"one": 1}


def draw_axis(axis: Any, title: str, sizes: Sequence[int]) -> None:
    """Makes an axis of Matplotlib's one of ratios over sizes, both logarithmic, with a line where neither is faster."""
    if axis.get_xscale() != "log":  # else it shares both with one that is drawn: each setting would visit all of them
        axis.set_xscale("log")
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xticks([], minor=True)
    axis.axhline(1, color="black", linewidth=1)
    axis.set_title(title)
    axis.grid(alpha=0.25, which="both")


def chosen(work: Work, devices: int, *, gradient: bool = True) -> list[str]:
    """The implementation that the engine takes for each layer, where so many devices share the batch."""
    dropout = work.option == "dropout"
    return [
        jaxseq.explain(
            measuring.CELLS[work.cell](hidden),
            (work.length, work.batch // devices, features),
            dropout=dropout,
            recurrent_dropout=dropout,
            gradient=gradient,
            sharded=devices > 1,
        ).implementation
        for features, hidden in work.layers
    ]


def timing_of(found: Mapping[str, Any], way: str, placement: str) -> dict[str, float] | None:
    """The timing of one implementation, or None where there is none; one with its own threads has one for all."""
    places = found.get(way, {})
    measured = places.get(placement) or places.get(THREADS)
    return measured and measured["seconds"]


class _Placed:
    """A piece of work's data, put on the devices once for each layout."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self._known: dict[tuple[bool, int], tuple[jax.Array, dict[str, Any]]] = {}

    def arrays(self, batch_major: bool, devices: int) -> tuple[jax.Array, dict[str, Any]]:
        """Inputs, and the rest that there is: cotangents, final cotangents, lengths, masks."""
        key = (batch_major, devices)
        if key not in self._known:
            self._known[key] = self._put(batch_major, devices)
        return self._known[key]

    def _put(self, batch_major: bool, devices: int) -> tuple[jax.Array, dict[str, Any]]:
        sequences = {"inputs": self.data.inputs, "cotangents": self.data.cotangents}
        if batch_major:
            sequences = {name: np.swapaxes(array, 0, 1) for name, array in sequences.items()}
        others = {"final": self.data.final_cotangents, "lengths": self.data.lengths, "masks": self.data.masks}
        mesh, specs = measuring.make_mesh(devices), _specs(batch_major)
        arrays = {
            name: jax.device_put(leaves, jax.NamedSharding(mesh, specs[name]))
            for name, leaves in (sequences | others).items()
            if leaves is not None
        }
        return arrays.pop("inputs"), arrays


def _specs(batch_major: bool) -> dict[str, jax.P]:
    """Over which axis of each array the batch is sharded."""
    first, second = jax.P("batch"), jax.P(None, "batch")
    sequences = first if batch_major else second
    return {"inputs": sequences, "cotangents": sequences, "final": first, "lengths": first, "masks": second}


def _compile_and_compare(
    peer: Peer,
    work: Work,
    placed: _Placed,
    ways: Sequence[str],
    placements: Mapping[str, int],
    references: dict[str, Any],
) -> tuple[dict[str, Any], dict[tuple[str, str], Compiled]]:
    """One implementation in every way and placement; the first one's results become the references."""
    found: dict[str, Any] = {}
    programs = {}
    for way in ways:
        found[way] = {}
        for placement, devices in ({THREADS: 0} if peer.has_threads else placements).items():
            if peer.has_threads:
                compiled = _compile_torch(peer, work, placed.data, way)
            else:
                compiled = _compile_jax(peer, work, placed, way, devices)
            result = compiled.result()
            reference = references.setdefault("forward" if way == "forward" else "gradient", result)
            label = f"{peer.title}, {way}, {placement}, of {work}"
            found[way][placement] = {
                "compile_seconds": compiled.compile_seconds,
                "memory": compiled.memory,
                "difference": measuring.check_equal(label, result, _same_parts(result, reference)),
            }
            programs[way, placement] = compiled
    return found, programs


def _same_parts(result: Any, reference: Any) -> Any:
    """The reference without gradients of weights that the result's peer does not have."""
    if not isinstance(result[0], tuple):  # outputs and state
        return reference
    pairs = [zip(*of_layer, strict=True) for of_layer in zip(result[0], reference[0], strict=True)]
    kept = tuple(tuple({name: whole[name] for name in own} for own, whole in of_layer) for of_layer in pairs)
    return kept, reference[1]


def _each_cell(function: Callable[[Any, Any], Any], work: Work, trees: Any) -> Any:
    """Applies a function of (cell, tree) to the tree of each layer and direction."""
    return tuple(
        tuple(function(measuring.CELLS[work.cell](hidden), tree) for tree in of_layer)
        for (_, hidden), of_layer in zip(work.layers, trees, strict=True)
    )


def _network(peer: Peer, work: Work) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """All layers, each in its directions: (weights, inputs, lengths, masks) -> (outputs, final hidden state)."""
    layers = [
        peer.both(work, features, hidden)
        if work.bidirectional and peer.both is not None
        else _side_by_side([peer.layer(work, features, hidden, reverse) for reverse in work.directions])
        for features, hidden in work.layers
    ]

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        final = outputs = inputs
        for index, layer in enumerate(layers):
            final, outputs = layer(weights[index], outputs, lengths, None if masks is None else masks[index])
        return outputs, final

    return run


def _side_by_side(runs: list[peers.Run]) -> peers.Run:
    """A layer's directions over the same inputs, what they give concatenated."""

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        masks = [None] * len(runs) if masks is None else masks
        results = [one(own, inputs, lengths, mask) for one, own, mask in zip(runs, weights, masks, strict=True)]
        if len(results) == 1:
            return results[0]
        finals, outputs = zip(*results, strict=True)
        return jnp.concatenate(finals, axis=-1), jnp.concatenate(outputs, axis=-1)

    return run


def _compile_jax(peer: Peer, work: Work, placed: _Placed, way: str, devices: int) -> Compiled:
    network, specs = _network(peer, work), _specs(peer.batch_major)
    mesh = measuring.make_mesh(devices)
    inputs, rest = placed.arrays(peer.batch_major, devices)
    weights = jax.device_put(_each_cell(peer.weights, work, placed.data.params), jax.NamedSharding(mesh, jax.P()))

    def forward(weights: Any, inputs: jax.Array, rest: Any) -> tuple[jax.Array, jax.Array]:
        return network(weights, inputs, rest.get("lengths"), rest.get("masks"))

    def loss(weights: Any, inputs: jax.Array, rest: Any) -> jax.Array:
        outputs, final = forward(weights, inputs, rest)
        return jnp.vdot(rest["cotangents"], outputs) + jnp.vdot(rest["final"], final)

    def gradient(weights: Any, inputs: jax.Array, rest: Any) -> tuple[Any, jax.Array]:
        d_weights, d_inputs = jax.grad(loss, argnums=(0, 1))(weights, inputs, rest)
        return sum_over_devices(d_weights, devices), d_inputs

    def loop(weights: Any, inputs: jax.Array, rest: Any, rate: jax.Array, steps: jax.Array) -> tuple[Any, jax.Array]:
        return take_steps(lambda moved: gradient(*moved, rest=rest), (weights, inputs), rate, steps)

    function = {"forward": forward, "gradient": gradient, "loop": loop}[way]
    one_step = (np.float32(CHECKED_RATE), np.int32(1)) if way == "loop" else ()
    if devices > 1:
        function = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(jax.P(), specs["inputs"], {name: specs[name] for name in rest}, *[jax.P()] * len(one_step)),
            out_specs=(specs["inputs"], specs["final"]) if way == "forward" else (jax.P(), specs["inputs"]),
            check_vma=False,
        )
    program = measuring.compile_program(function, weights, inputs, rest, *one_step)

    def result() -> Any:
        first, second = program.run()
        if way == "forward":
            return _time_major(first, peer) * placed.data.real, np.asarray(second)
        if way == "loop":
            change = jax.tree.map(jnp.subtract, (weights, inputs), (first, second))
            first, second = jax.tree.map(lambda leaf: leaf / CHECKED_RATE, change)
        return _each_cell(peer.gradients, work, first), _time_major(second, peer)

    def run(steps: int) -> Any:
        if way != "loop":
            return program.run()
        return program.call(weights, inputs, rest, np.float32(TINY_RATE), np.int32(steps))

    return Compiled(program.compile_seconds, program.memory, result, run)


def _time_major(sequences: Any, peer: Peer) -> np.ndarray:
    return np.swapaxes(sequences, 0, 1) if peer.batch_major else np.asarray(sequences)


def _compile_torch(peer: Peer, work: Work, data: Data, way: str) -> Compiled:
    torch = peer.load()
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(np.array(array)).to(device)

    layers = [peer.layer(work, features, hidden, False).to(device) for features, hidden in work.layers]
    leaves = [parameter for layer in layers for parameter in layer.parameters()]
    arrays = [array for of_layer in _each_cell(peer.weights, work, data.params) for own in of_layer for array in own]
    inputs, cotangents = tensor(data.inputs).requires_grad_(), (tensor(data.cotangents), tensor(data.final_cotangents))
    lengths = None if data.lengths is None else torch.from_numpy(data.lengths).long()  # on the CPU, as packing asks
    is_packed = lengths is not None and work.bidirectional
    last = None if lengths is None or is_packed else lengths.to(device) - 1
    leaves.append(inputs)
    arrays.append(data.inputs)

    def reset() -> None:
        with torch.no_grad():
            for leaf, array in zip(leaves, arrays, strict=True):
                leaf.copy_(tensor(array))

    def network() -> tuple[Any, Any]:
        outputs: Any = inputs
        state: Any = None
        if is_packed:
            outputs = torch.nn.utils.rnn.pack_padded_sequence(outputs, lengths, enforce_sorted=False)
        for layer in layers:
            outputs, state = layer(outputs)
        if is_packed:
            outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=work.length)
        if last is not None:
            return outputs, outputs[last, torch.arange(len(last), device=device)]
        hidden = state[0] if work.cell == "lstm" else state  # [directions, B, H]
        return outputs, torch.cat(list(hidden), dim=-1)

    def forward() -> Any:
        with torch.no_grad():
            return network()

    def gradient() -> Any:
        return torch.autograd.grad(network(), leaves, cotangents)

    def loop(steps: int, rate: float) -> None:
        for _ in range(steps):
            slopes = gradient()
            with torch.no_grad():
                for leaf, slope in zip(leaves, slopes, strict=True):
                    leaf.sub_(slope, alpha=rate)

    def run(steps: int) -> Any:
        done = forward() if way == "forward" else gradient() if way == "gradient" else loop(steps, TINY_RATE)
        if device == "cuda":
            torch.cuda.synchronize()
        return done

    def result() -> Any:
        if way == "forward":
            outputs, final = (value.cpu().numpy() for value in forward())
            return outputs * data.real, final
        if way == "gradient":
            slopes = [slope.cpu().numpy() for slope in gradient()]
        else:
            loop(1, CHECKED_RATE)
            changes = (array - leaf.detach().cpu().numpy() for leaf, array in zip(leaves, arrays, strict=True))
            slopes = [change / CHECKED_RATE for change in changes]
            reset()
        *of_weights, of_inputs = slopes
        directions = len(work.directions)
        by_cell = [of_weights[start : start + 4] for start in range(0, len(of_weights), 4)]
        by_layer = [by_cell[start : start + directions] for start in range(0, len(by_cell), directions)]
        return _each_cell(peer.gradients, work, by_layer), of_inputs

    reset()
    return Compiled(None, None, result, run)
