"""What a fused kernel computes at each step, forward and backward, found in the traced step of a cell.

1. What depends on the parameters alone (slices of the weights, one dropout mask of several) is computed once, outside,
   where JAX differentiates it.
2. Forward and backward step are one traced program, `jax.vjp` of the step. Of its forward half the kernel stores what
   `residuals.py` says costs something, tile by tile; the rest it computes again.
3. A product that sums over the batch is a weight's gradient. It is left out of the kernel, which writes its two factors
   where they are not in memory already, and taken once for all steps.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from jaxseq import residuals
from jaxseq.fused.tiles import BATCH, CannotFuse, Layout, assemble, evaluate, full, lay_out, wide
from jaxseq.invariants import leading_to, variables

Shape = tuple[int, ...]


class Body(NamedTuple):
    """One step on tiles, and which arrays it reads."""

    run: Callable[..., tuple[list[Any], list[Any]]]  # (constants, carry, stream) to (carry, emitted), lists of tiles
    constants: list[bool]
    stream: list[bool]


class Source(NamedTuple):
    """Where a tile of a weight gradient's factor lies in memory."""

    place: str  # "emitted" by the backward kernel, "stored" by the forward one, or an argument: "step", "constant"
    array: int
    column: int


class Training(NamedTuple):
    """A step forward that keeps what the step backward needs, and the step backward."""

    forward: Body  # emits the outputs, then what is stored
    backward: (
        Body  # reads what is stored, the step, the outputs' gradients; carries gradients: the state's, then `own`'s
    )
    own: list[int]  # constants whose gradients differ from sequence to sequence
    shared: list[int]  # the other constants
    of_step: list[int]
    stored: list[tuple[Layout, Any]]  # and dtypes
    emitted: list[Layout]  # by the step backward: the gradients `of_step`, then what factors need
    factors: list[tuple[Shape, list[Source]]]
    gradients: Callable[..., list[Any]]  # (factors, each [T, ...], and constants) to the gradients of `shared`


def trace(function: Callable[..., Any], arguments: Iterable[Any]) -> ClosedJaxpr:
    """The program of a function, in which calls of jitted functions are written out, and of no mesh."""
    with jax.disable_jit(), jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return jax.make_jaxpr(function)(*arguments)


def separate(
    step: Callable[..., list[Any]], shapes: Callable[[int], list[list[Any]]], batch: int
) -> tuple[ClosedJaxpr, ClosedJaxpr]:
    """Parts a step into what can be computed before the loop, and the rest.

    Args:
      step: leaves of (invariants, state, inputs of the step) to leaves.
      shapes: by the batch's size, the abstract leaves of these three.
      batch: B.
    Returns:
      (before, loop): invariants to constants, traced for B; (constants, state, inputs) to leaves, traced for `BATCH`.
    """
    here, loop = (trace(step, sum(shapes(size), [])) for size in (batch, BATCH))
    if len(here.jaxpr.eqns) != len(loop.jaxpr.eqns):
        raise CannotFuse("it does something else for a batch of another size")
    count, lists = len(shapes(batch)[0]), [(here.jaxpr.constvars, loop.jaxpr.constvars)]
    lists += [(here.jaxpr.invars, loop.jaxpr.invars)]
    lists += [(a.outvars, b.outvars) for a, b in zip(here.jaxpr.eqns, loop.jaxpr.eqns, strict=True)]
    twin = {theirs: ours for some, others in lists for ours, theirs in zip(some, others, strict=True)}

    known, early = {*loop.jaxpr.constvars, *loop.jaxpr.invars[:count]}, []
    for place, equation in enumerate(loop.jaxpr.eqns):
        read = variables(equation.invars)
        if known.issuperset(read) and (read or not _with_batch(equation.outvars)):
            known.update(equation.outvars)
            early.append(place)
    late = [equation for place, equation in enumerate(loop.jaxpr.eqns) if place not in early]
    read = [atom for equation in late for atom in equation.invars] + list(loop.jaxpr.outvars)
    constants = list(dict.fromkeys(variable for variable in variables(read) if variable in known))
    before = here.jaxpr.replace(
        invars=here.jaxpr.invars[:count],
        outvars=[twin[constant] for constant in constants],
        eqns=[here.jaxpr.eqns[place] for place in early],
    )
    after = loop.jaxpr.replace(constvars=[], invars=[*constants, *loop.jaxpr.invars[count:]], eqns=late)
    return ClosedJaxpr(before, here.consts), ClosedJaxpr(after, ())


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The kernels of one step.

    Args:
      loop: leaves of (constants, state, inputs of the step) to those of (state, outputs), traced for `BATCH` sequences.
      counts: how many are constants, state and inputs.
      hidden_size: H.
      dtype: of what lies in memory, and of the factors of products; all else is float32.
    """

    loop: ClosedJaxpr
    counts: tuple[int, int, int]
    hidden_size: int
    dtype: Any

    @functools.cached_property
    def shapes(self) -> list[Shape]:
        """Of the constants, the state and the step."""
        return [variable.aval.shape for variable in self.loop.jaxpr.invars]

    @functools.cached_property
    def results(self) -> list[Shape]:
        """Of the state and the outputs."""
        return [atom.aval.shape for atom in self.loop.jaxpr.outvars]

    def part(self, items: Sequence[Any]) -> list[list[Any]]:
        """Items in the order of the arguments, as those of the constants, the state and the step."""
        first, second = self.counts[0], self.counts[0] + self.counts[1]
        return [list(items[:first]), list(items[first:second]), list(items[second:])]

    def layouts(self, shapes: Iterable[Shape]) -> list[Layout]:
        """How arrays of these shapes lie in a kernel's memory."""
        return [lay_out(shape, self.hidden_size) for shape in shapes]

    def inference(self) -> Body:
        """The step forward, which keeps nothing."""
        tiled = self._on_tiles(self.loop.jaxpr)
        return self._forward(tiled, tiled.outvars)

    def training(self, wanted: tuple[bool, ...]) -> Training:
        """The steps of training, for the gradients of the state and of those other arguments that are `wanted`."""
        constants, first, end = self.counts[0], self.counts[0], self.counts[0] + self.counts[1]
        places = [place for place, flag in enumerate(wanted) if flag or first <= place < end]
        shared = [place for place in places if place < constants and BATCH not in self.shapes[place]]
        own = [place for place in places if place < constants and BATCH in self.shapes[place]]
        of_step = [place for place in places if place >= end]
        joint, gradient = self._both_ways(places)
        sums, factors, gradients = _sums_over_batch(joint, [gradient[place] for place in shared])
        carried = [gradient[place] for place in (*range(first, end), *own)]
        results = [*joint.outvars[: len(self.results)], *carried, *(gradient[place] for place in of_step), *factors]
        tiled = self._on_tiles(joint.replace(outvars=results, eqns=leading_to(joint.eqns, results)[0]))

        by_result = self._by_array(tiled.outvars, [atom.aval.shape for atom in results])
        ends = [len(self.results), len(self.results) + len(carried), len(results) - len(factors)]
        forward, carried, emitted, factor_tiles = (
            by_result[start:stop] for start, stop in zip([0, *ends], [*ends, None], strict=True)
        )
        fixed, state, step = self.part(self._by_array(tiled.invars, self.shapes))
        cotangents = self._by_array(tiled.invars[len(_flat([*fixed, *state, *step])) :], self.results)
        of_state, of_outputs = cotangents[: self.counts[1]], cotangents[self.counts[1] :]
        stored = _stored(tiled, _flat(state), _flat(step), _flat(cotangents), _flat(carried + emitted + factor_tiles))

        known: dict[Any, Source] = {}
        stored_arrays = [(tile,) for tile in stored]
        for place, arrays in (("constant", fixed), ("step", step), ("stored", stored_arrays), ("emitted", emitted)):
            known.update({t: Source(place, i, j) for i, tiles in enumerate(arrays) for j, t in enumerate(tiles)})
        layouts = self.layouts(self.shapes[place] for place in of_step)
        for tiles, layout in zip(factor_tiles, self.layouts(factor.aval.shape for factor in factors), strict=True):
            new = tuple(tile for tile in tiles if tile not in known)
            if new:
                known.update({tile: Source("emitted", len(emitted), column) for column, tile in enumerate(new)})
                emitted.append(new)
                layouts.append(Layout(None, layout.columns[: len(new)]))

        program, read = _program(
            tiled,
            [*_flat(fixed), *_flat(of_state), *stored, *_flat(step), *_flat(of_outputs)],
            _flat(carried + emitted),
        )
        state_size, size = len(_flat(of_state)), len(_flat(carried))

        def backward(constants: list[Any], carry: list[Any], stream: list[Any]) -> tuple[list[Any], list[Any]]:
            found = program(*constants, *carry[:state_size], *stream)
            return [*found[:state_size], *map(lax.add, carry[state_size:], found[state_size:size])], found[size:]

        return Training(
            forward=self._forward(tiled, [*_flat(forward), *stored]),
            backward=Body(backward, _which(fixed, read), _which(stored_arrays + step + of_outputs, read)),
            own=own,
            shared=shared,
            of_step=[place - end for place in of_step],
            stored=[(Layout(None, tile.aval.shape[1:]), self._in_memory(tile.aval.dtype)) for tile in stored],
            emitted=layouts,
            factors=[(f.aval.shape, [known[t] for t in tiles]) for f, tiles in zip(factors, factor_tiles, strict=True)],
            gradients=lambda values, constants: gradients(sums(values), constants),
        )

    def _in_memory(self, dtype: Any) -> Any:
        return self.dtype if jnp.issubdtype(dtype, jnp.floating) else dtype

    def _both_ways(self, places: Sequence[int]) -> tuple[Jaxpr, dict[int, Any]]:
        """The step and its derivative: (arguments, gradients of the results) to (results, gradients at `places`)."""

        def run(*leaves: Any) -> list[Any]:
            arguments, cotangents = leaves[: len(self.shapes)], leaves[len(self.shapes) :]

            def forward(*chosen: Any) -> list[Any]:
                filled = dict(zip(places, chosen, strict=True))
                return jaxpr_as_fun(self.loop)(*(filled.get(place, leaf) for place, leaf in enumerate(arguments)))

            found, pull_back = jax.vjp(forward, *(arguments[place] for place in places))
            return [*found, *pull_back(list(cotangents))]

        joint = trace(run, [*self.loop.in_avals, *self.loop.out_avals]).jaxpr
        return joint, dict(zip(places, joint.outvars[len(self.results) :], strict=True))

    def _by_array(self, tiles: Sequence[Any], shapes: Sequence[Shape]) -> list[tuple[Any, ...]]:
        remaining = iter(tiles)
        return [tuple(next(remaining) for _ in layout.tiles) for layout in self.layouts(shapes)]

    def _on_tiles(self, jaxpr: Any) -> Jaxpr:
        """The same program on tiles: all of its arguments' tiles to all of its results'."""
        inputs, results = ([atom.aval for atom in atoms] for atoms in (jaxpr.invars, jaxpr.outvars))
        shapes = [aval.shape for aval in inputs]

        def run(*tiles: Any) -> list[Any]:
            by_array = zip(shapes, self._by_array(tiles, shapes), strict=True)
            arguments = [assemble(shape, tiles, self.hidden_size) for shape, tiles in by_array]
            found = evaluate(jaxpr, (), arguments, self.hidden_size)
            layouts = self.layouts(aval.shape for aval in results)
            return [
                full(tile, shape, aval.dtype)
                for result, aval, layout in zip(found, results, layouts, strict=True)
                for tile, shape in zip(result.tiles.flat, layout.tiles, strict=True)
            ]

        arguments = [
            jax.ShapeDtypeStruct(tile, self.dtype if is_matrix(aval.shape) else aval.dtype)
            for aval, layout in zip(inputs, self.layouts(shapes), strict=True)
            for tile in layout.tiles
        ]
        return trace(run, arguments).jaxpr

    def _forward(self, tiled: Jaxpr, results: Sequence[Any]) -> Body:
        """The step forward to results of which the first are the new state."""
        constants, state, step = self.part(self._by_array(tiled.invars, self.shapes))
        program, read = _program(tiled, [*_flat(constants), *_flat(state), *_flat(step)], results)
        size = len(_flat(state))

        def run(constants: list[Any], carry: list[Any], stream: list[Any]) -> tuple[list[Any], list[Any]]:
            found = program(*constants, *carry, *stream)
            return found[:size], found[size:]

        return Body(run, _which(constants, read), _which(step, read))


def is_matrix(shape: Shape) -> bool:
    """Whether an array is one that states are multiplied with."""
    return BATCH not in shape and len(wide(shape)) == 2


def _flat(arrays: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [tile for tiles in arrays for tile in tiles]


def _which(arrays: Sequence[tuple[Any, ...]], read: set[Any]) -> list[bool]:
    return [not read.isdisjoint(tiles) for tiles in arrays]


def _program(jaxpr: Jaxpr, inputs: list[Any], results: Sequence[Any]) -> tuple[Callable[..., list[Any]], set[Any]]:
    """What computes some of a program's values from others, and the variables that it reads; None stands for zeros."""
    equations, read = leading_to(jaxpr.eqns, results, inputs)
    function = jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(invars=inputs, outvars=list(results), eqns=equations), ()))
    avals = [variable.aval for variable in inputs]

    def run(*values: Any) -> list[Any]:
        pairs = zip(values, avals, strict=True)
        return function(
            *(
                lax.full(aval.shape, 0, aval.dtype) if value is None else value.astype(aval.dtype)
                for value, aval in pairs
            )
        )

    return run, read


def _stored(
    tiled: Any, state: Sequence[Any], step: Sequence[Any], cotangents: Sequence[Any], results: Sequence[Any]
) -> list[Any]:
    """The tiles of the forward half that the backward half reads, and that are no cheaper to compute again."""
    varying, backward = {*state, *step}, set(cotangents)
    for equation in tiled.eqns:
        for group in (varying, backward):
            if not group.isdisjoint(variables(equation.invars)):
                group.update(equation.outvars)
    needed, stored = set(variables(results)), []
    for equation in reversed(tiled.eqns):
        read = [variable for variable in equation.outvars if variable in needed]
        forward = any(variable in varying and variable not in backward for variable in read)
        is_tile = all(len(variable.aval.shape) == 2 for variable in read)  # no sum on its way to become one
        if forward and is_tile and residuals._is_stored(equation.primitive):
            stored += read
        elif read:
            needed.update(variables(equation.invars))
    return stored[::-1] + [tile for tile in state if tile in needed]


def _sums_over_batch(
    joint: Jaxpr, results: Sequence[Any]
) -> tuple[Callable[..., list[Any]], list[Any], Callable[..., list[Any]]]:
    """Takes the gradients that all sequences share out of a step.

    Returns:
      (sums, factors, gradients): from the factors at all steps to sums over steps and batch; the factors; from these
      sums and the constants to `results`.
    """
    late, cuts = set(), []
    for equation in joint.eqns:
        reads, makes = (_with_batch(atoms) for atoms in (equation.invars, equation.outvars))
        if not late.isdisjoint(variables(equation.invars)):
            if reads or makes:
                raise CannotFuse("it couples the sequences of a batch")
            late.update(equation.outvars)
        elif reads and not makes:
            late.update(equation.outvars)
            cuts.append(equation)
    _, read = leading_to(joint.eqns, results, _flat(cut.outvars for cut in cuts))
    cuts = [cut for cut in cuts if not read.isdisjoint(cut.outvars)]
    factors = list(dict.fromkeys(variable for cut in cuts for variable in cut.invars))
    takes = [_sum_over_steps(cut) for cut in cuts]

    def sums(values: list[Any]) -> list[Any]:
        by_factor = dict(zip(factors, values, strict=True))
        return [take(*(by_factor[factor] for factor in cut.invars)) for take, cut in zip(takes, cuts, strict=True)]

    totals = _flat(cut.outvars for cut in cuts)
    constants = [variable for variable in joint.invars if variable in read and not _with_batch([variable])]
    places = [joint.invars.index(variable) for variable in constants]
    program, _ = _program(joint, [*totals, *constants], results)

    def gradients(totals: list[Any], all_constants: list[Any]) -> list[Any]:
        return program(*totals, *(all_constants[place] for place in places))

    return sums, factors, gradients


def _with_batch(atoms: Iterable[Any]) -> bool:
    return any(BATCH in atom.aval.shape for atom in atoms)


def _sum_over_steps(cut: Any) -> Callable[..., Any]:
    """A sum over the batch, as one over steps and batch of arrays [T, ...]."""
    parameters, shapes = cut.params, [variable.aval.shape for variable in cut.invars]
    if cut.primitive.name == "reduce_sum":
        return lambda values: jnp.sum(values, axis=(0, *(axis + 1 for axis in parameters["axes"])), dtype=jnp.float32)
    axes, batched = parameters.get("dimension_numbers", (((), ()), ((), ())))
    contracted = [[shape[axis] for axis in side] for shape, side in zip(shapes, axes, strict=False)]
    if cut.primitive.name != "dot_general" or batched[0] or contracted != [[BATCH], [BATCH]]:
        raise CannotFuse(f"it couples the sequences of a batch by `{cut.primitive.name}`")

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        # Flat: of two axes, one cut from padding, XLA's CPU compiler makes a product in bfloat16 that it cannot run.
        flat = [
            jnp.moveaxis(value, axis + 1, 1).reshape(-1, *(size for size in shape if size != BATCH))
            for value, shape, (axis,) in zip((left, right), shapes, axes, strict=True)
        ]
        return lax.dot_general(
            flat[0],
            flat[1],
            (((0,), (0,)), ((), ())),
            precision=parameters["precision"],
            preferred_element_type=jnp.float32,
        )

    return product
