"""Random ONNX graphs of what exporters write: idioms, near misses of them, and odd but valid structure.

Each node is run by ONNX Runtime as it is added, so that every value's type, shape and contents are
known; a node that ONNX Runtime refuses is left out again.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

BATCH = 2
"""The size of the free dimension in the feeds that a graph is grown on."""

ANY = tuple[int, ...]

FILLS = 0x55, 0xAA
"""What fresh memory holds, the one run and the other: as floats, 1.5e13 and -3e-13."""

_M_PERTURB = -6  # glibc's mallopt: the complement of this byte fills what malloc gives


class Rejected(Exception):
    """What was to be added does not fit here."""


class Grower:
    """Grows one graph on concrete values."""

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.values: list[str] = []
        self.count = 0

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def need(self, condition: Any) -> None:
        if not condition:
            raise Rejected

    def name(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def value(
        self,
        kinds: str = "f",
        rank: int | None = None,
        minimum: int = 0,
        full: bool = False,
        wide: bool = False,
    ) -> str:
        """A random value, recent ones likelier. `kinds`: f float32, w any float, i int64, n any integer, b bool."""
        types = {"f": "f", "w": "fde", "i": "lq", "n": "ilqbBhHIQL", "b": "?"}
        chars = "".join(types[k] for k in kinds)
        fitting = [
            n
            for n in self.values
            if self.arrays[n].dtype.char in chars
            and self.arrays[n].ndim >= minimum
            and (rank is None or self.arrays[n].ndim == rank)
            and not (full and self.arrays[n].size == 0)
            and (not wide or self.arrays[n].size > 1)
        ]
        self.need(fitting)
        return fitting[-1 - min(int(self.rng.geometric(0.25)) - 1, len(fitting) - 1)]

    def shape(self, name: str) -> ANY:
        return self.arrays[name].shape

    def const(self, array: Any, dtype: Any = None) -> str:
        array = np.asarray(array, dtype)
        for tensor in reversed(self.initializers[-8:]):  # shared weights
            if (
                self.chance(0.3)
                and np.array_equal(self.arrays[tensor.name], array)
                and (self.arrays[tensor.name].dtype == array.dtype)
            ):
                return tensor.name
        name = self.name("c")
        if self.chance(0.3):
            self.nodes.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
            )
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        self.arrays[name] = array
        return name

    def ints(self, *numbers: int) -> str:
        return self.const(numbers, np.int64)

    def normal(self, *shape: int) -> str:
        return self.const(self.rng.standard_normal(shape), np.float32)

    def scalar(self, like: str, number: float) -> str:
        return self.const(np.full(self.pick((), (1,)), number), self.arrays[like].dtype)

    def op(self, kind: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add one node; inputs are names or arrays. The name of its output, or a list of them."""
        names = [i if isinstance(i, str) else self.const(i) for i in inputs]
        results = [self.name() for _ in range(outputs)]
        label = self.pick("", f"scope/{kind}_{self.count}", f"odd 'name' {self.count}")
        node = helper.make_node(kind, names, results, name=label, domain=domain, **attributes)
        for name, array in zip(results, run_node(node, self.arrays, self.opset), strict=True):
            self.need(isinstance(array, np.ndarray) and array.size < 3000)
            if array.dtype.kind == "f" and array.size:
                with np.errstate(all="ignore"):
                    peak = np.abs(array[np.isfinite(array)]).max(initial=0)
                self.need(peak < (1e3 if array.dtype == np.float16 else 1e6))
            self.arrays[name] = array
            self.values.append(name)
        self.nodes.append(node)
        return results[0] if outputs == 1 else results

    def axes_op(self, kind: str, x: str, axes: list[int], since: int, **attributes: Any) -> str:
        """An operator whose axes are an attribute before opset `since`, an input from then on."""
        if self.opset < since:
            return str(self.op(kind, x, axes=axes, **attributes))
        return str(self.op(kind, x, self.ints(*axes), **attributes))

    def reduce(self, kind: str, x: str, axes: list[int], keep: int = 1) -> str:
        return self.axes_op(kind, x, axes, 13 if kind == "ReduceSum" else 18, keepdims=keep)

    def commute(self, kind: str, a: Any, b: Any) -> str:
        return str(self.op(kind, *((a, b) if self.chance(0.5) else (b, a))))

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo everything added inside when it does not fit."""
        marks = len(self.nodes), len(self.initializers), len(self.values)
        try:
            yield
        except Rejected:
            del self.nodes[marks[0] :], self.initializers[marks[1] :], self.values[marks[2] :]

    def grow(self, steps: list[Callable[[Grower], None]]) -> None:
        with self.attempt():
            steps[int(self.rng.integers(len(steps)))](self)


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that a node and its nested graphs read."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= captured(inner)
        names |= {o.name for o in attribute.g.output}
    return names - {""}


def run_node(node: onnx.NodeProto, arrays: dict[str, np.ndarray], opset: int) -> list[Any]:
    """The node's outputs under ONNX Runtime without optimisations. Rejected if it refuses."""
    used = [n for n in captured(node) if n in arrays]
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(arrays[n].dtype), arrays[n].shape
            )
            for n in used
        ],
        [onnx.ValueInfoProto(name=n) for n in node.output],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    try:
        with memory_filled(FILLS[0]):
            return session(model, False).run(list(node.output), {n: arrays[n] for n in used})
    except Exception as error:
        if not failed_in_onnxruntime(error):
            raise
        raise Rejected from error


@contextlib.contextmanager
def memory_filled(byte: int) -> Iterator[None]:
    """Within it, memory that is allocated holds `byte` throughout (with glibc; elsewhere it holds anything)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_PERTURB, byte ^ 0xFF)
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)


class Answers:
    """What a model gives under ONNX Runtime; feeds may override initializers, too."""

    def __init__(self, model: onnx.ModelProto, optimise: bool = False, without: Sequence[str] = ()) -> None:
        self.session = session(model, optimise, without)
        self.names = [o.name for o in self.session.get_outputs()]
        declared = (*self.session.get_inputs(), *self.session.get_overridable_initializers())
        self.known = {i.name for i in declared}

    def __call__(self, feeds: Mapping[str, np.ndarray], fill: int = FILLS[0]) -> dict[str, Any]:
        """The outputs, by name; memory that is allocated for them holds `fill` before."""
        known = {k: v for k, v in feeds.items() if k in self.known}
        with memory_filled(fill):
            results = self.session.run(self.names, known)
        return dict(zip(self.names, results, strict=True))


def session(
    model: onnx.ModelProto, optimise: bool, without: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session with all of its optimisations but those called `without`, or none.

    Without them it takes memory for each value anew, so that none finds there what another left.
    """
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimise:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = options.enable_mem_reuse = False
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(without),
    )


def failed_in_onnxruntime(error: Exception) -> bool:
    """Whether `error` is one of ONNX Runtime's, which have no common base."""
    return type(error).__module__.startswith("onnxruntime")


def make_feeds(
    seed: int, declared: dict[str, tuple[Any, tuple[Any, ...]]], batch: int
) -> dict[str, np.ndarray]:
    """Feeds for inputs declared as name → (dtype, shape), with the free dimension at `batch`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, (dtype, shape) in declared.items():
        sizes = [batch if d == "batch" else d for d in shape]
        kind = np.dtype(dtype).kind
        array = (
            rng.integers(0, 3, sizes or None)
            if kind == "i"
            else rng.integers(0, 2, sizes)
            if kind == "b"
            else rng.standard_normal(sizes)
        )
        feeds[name] = np.asarray(array, dtype)
    return feeds


INPUTS: list[tuple[Any, tuple[Any, ...]]] = [
    (np.float32, ("batch", 3, 6, 6)),
    (np.float32, ("batch", 4, 6)),
    (np.float32, ("batch", 6)),
    (np.int64, ("batch", 4)),
    (np.bool_, ("batch", 4)),
    (np.float16, ("batch", 4)),
    (np.float64, ("batch", 3)),
    (np.float32, (1, "batch")),
    (np.float32, ()),
    (np.int64, ()),
    (np.float32, (0, 3)),
    (np.int32, (4,)),
    (np.float32, (3, 5, 7)),
]


class Case:
    """A random model, its feeds, and feeds at another size of its free dimension."""

    def __init__(self, seed: int) -> None:
        import exporter_blocks  # noqa: F401  (these register their steps)
        import exporter_examples  # noqa: F401
        import exporter_movement  # noqa: F401
        import exporter_operators  # noqa: F401
        from exporter_idioms import STEPS

        rng = np.random.default_rng(seed)
        self.opset = int(rng.choice([11, 13, 14, 16, 17, 18, 19, 20, 21, 22]))
        grower = Grower(seed, self.opset)
        chosen = [INPUTS[int(rng.integers(3))], *(INPUTS[int(i)] for i in rng.integers(0, len(INPUTS), 3))]
        declared = {f"x{i}": spec for i, spec in enumerate(chosen)}
        self.feeds = make_feeds(seed, declared, BATCH)
        free = bool(rng.integers(4))
        self.second = make_feeds(seed + 1, declared, int(rng.choice([1, 3, 5])) if free else BATCH)
        grower.arrays |= self.feeds
        grower.values += list(self.feeds)
        for _ in range(int(rng.integers(2, 14))):
            grower.grow(STEPS)
        inputs = [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), s if free else self.feeds[n].shape
            )
            for n, (t, s) in declared.items()
        ]
        inputs += self.overridable(grower, rng)
        graph = helper.make_graph(
            grower.nodes, f"exporter_{seed}", inputs, self.outputs(grower, rng), grower.initializers
        )
        self.proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=8,
        )

    @property
    def every(self) -> tuple[dict[str, np.ndarray], ...]:
        """All feeds."""
        return self.feeds, self.second

    def overridable(self, grower: Grower, rng: np.random.Generator) -> list[onnx.ValueInfoProto]:
        """Make an initializer or two inputs with a default; the second feeds give another value."""
        floats = [t for t in grower.initializers if t.data_type == onnx.TensorProto.FLOAT]
        if not floats or rng.random() < 0.7:
            return []
        infos = {}
        for index in rng.integers(0, len(floats), 2):
            tensor = floats[int(index)]
            array = grower.arrays[tensor.name]
            infos[tensor.name] = helper.make_tensor_value_info(tensor.name, tensor.data_type, array.shape)
            self.second[tensor.name] = np.asarray(array * 0.5 + 0.25, np.float32)
        return list(infos.values())

    def outputs(self, grower: Grower, rng: np.random.Generator) -> list[onnx.ValueInfoProto]:
        """The last value and a few others; at times an input, a constant, or one value under two names."""
        produced = [v for v in grower.values if v not in self.feeds]
        names = [
            *(produced[-1:]),
            *(produced[int(i)] for i in rng.integers(0, max(1, len(produced)), 3) if produced),
        ]
        if rng.random() < 0.1 or not names:
            names.append("x0")
        constants = [t.name for t in grower.initializers] + [
            n.output[0] for n in grower.nodes if n.op_type == "Constant"
        ]
        if constants and rng.random() < 0.1:
            names.append(constants[int(rng.integers(len(constants)))])
        if rng.random() < 0.1:
            grower.nodes.append(helper.make_node("Identity", [names[0]], ["again"]))
            grower.arrays["again"] = grower.arrays[names[0]]
            names.append("again")
        return [
            helper.make_tensor_value_info(
                n,
                helper.np_dtype_to_tensor_dtype(grower.arrays[n].dtype),
                [None] * grower.arrays[n].ndim,
            )
            for n in dict.fromkeys(names)
        ]
