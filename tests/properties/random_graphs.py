"""Random ONNX graphs: odd but valid, over many operators, with fixed and free dimensions.

A graph is grown node by node from a seed. Every value carries its concrete shape under the sizes that
the free dimensions have in the feeds, so that each new node is valid by construction.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A value and what is known of it."""

    name: str
    dtype: int
    shape: tuple[int, ...]


class Grower:
    """Grows one graph."""

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: list[Tracked] = []
        self.count = 0

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def value(self, dtype: int = FLOAT, rank: int | None = None, minimum: int = 0) -> Tracked | None:
        """A random value, recent ones likelier."""
        fitting = [
            v
            for v in self.values
            if v.dtype == dtype and len(v.shape) >= minimum and (rank is None or len(v.shape) == rank)
        ]
        if not fitting:
            return None
        return fitting[-1 - min(int(self.rng.geometric(0.3)) - 1, len(fitting) - 1)]

    def const(self, array: np.ndarray) -> str:
        self.count += 1
        name = f"c{self.count}"
        if self.rng.random() < 0.3:  # the other way to write a constant
            self.nodes.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
            )
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def emit(
        self, op: str, inputs: list[str], *results: tuple[int, tuple[int, ...]], **attributes: Any
    ) -> None:
        self.count += 1
        names = [f"v{self.count}_{i}" for i in range(len(results))]
        node_name = self.pick("", f"scope/{op}_{self.count}", f"odd 'name' {self.count}")
        self.nodes.append(helper.make_node(op, inputs, names, name=node_name, **attributes))
        self.values += [
            Tracked(n, d, s) for n, (d, s) in zip(names, results, strict=True) if np.prod(s) < 5000
        ]

    def grow(self) -> None:
        """Add one random node (or a small idiom)."""
        steps = [getattr(self, name) for name in dir(self) if name.startswith("add_")]
        steps[int(self.rng.integers(len(steps)))]()

    # Each method below adds one kind of node, or nothing when no value fits.

    def add_unary(self) -> None:
        if (x := self.value()) is not None:
            op = self.pick("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Floor", "Sign", "Erf", "Softplus",
                           "HardSigmoid", "LeakyRelu", "Elu", "Ceil", "Identity", "Sin", "HardSwish")  # fmt: skip
            self.emit(op, [x.name], (FLOAT, x.shape))

    def add_binary(self) -> None:
        x, y = self.value(), self.value()
        if x is None or y is None:
            return
        try:
            shape = np.broadcast_shapes(x.shape, y.shape)
        except ValueError:
            return
        self.emit(self.pick("Add", "Sub", "Mul", "Max", "Min", "Add"), [x.name, y.name], (FLOAT, shape))

    def add_with_constant(self) -> None:
        if (x := self.value()) is not None:
            number = self.pick(0.0, -0.0, 1.0, 2.0, 0.5, -1.5, 3.0)
            shape = self.pick((), (1,), (1,) * len(x.shape), x.shape[-1:])
            operand = self.const(np.full(shape, number, np.float32))
            op = (
                self.pick("Add", "Sub", "Mul", "Div", "Max", "Pow")
                if number
                else self.pick("Add", "Sub", "Mul")
            )
            if op == "Pow" and number not in (1.0, 2.0, 3.0):
                op = "Mul"
            names = (
                [x.name, operand] if op in ("Div", "Pow") or self.rng.random() < 0.7 else [operand, x.name]
            )
            self.emit(op, names, (FLOAT, np.broadcast_shapes(x.shape, shape)))

    def add_transpose(self) -> None:
        if (x := self.value(minimum=1)) is not None:
            perm = [int(i) for i in self.rng.permutation(len(x.shape))]
            self.emit("Transpose", [x.name], (FLOAT, tuple(x.shape[i] for i in perm)), perm=perm)

    def add_reshape(self) -> None:
        x = self.value(minimum=1)
        if x is None or not all(x.shape):
            return
        total = int(np.prod(x.shape))
        if self.rng.random() < 0.3:  # through Shape, as exporters do
            self.emit("Shape", [x.name], (INT, (len(x.shape),)))
            flat = self.ints(-1)
            self.emit("Reshape", [x.name, flat], (FLOAT, (total,)))
            self.emit("Reshape", [self.values[-1].name, self.values[-2].name], (FLOAT, x.shape))
            return
        first = self.pick(*[d for d in range(1, total + 1) if total % d == 0])
        target = self.pick((first, -1), (-1,), (0, -1), (1, -1, 1))
        done = (
            np.empty(x.shape)[None]
            .reshape([1, *x.shape])[0]
            .reshape([x.shape[i] if d == 0 else d for i, d in enumerate(target)])
        )
        self.emit("Reshape", [x.name, self.ints(*target)], (FLOAT, done.shape))

    def add_squeeze(self) -> None:
        if (x := self.value()) is None or len(x.shape) > 4:
            return
        axis = int(self.rng.integers(len(x.shape) + 1))
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        self.emit("Unsqueeze", [x.name, self.ints(axis)], (FLOAT, shape))
        if self.rng.random() < 0.5:
            negative = self.ints(axis - len(shape))
            self.emit("Squeeze", [self.values[-1].name, negative], (FLOAT, x.shape))

    def add_concat_split(self) -> None:
        if (x := self.value(minimum=1)) is None:
            return
        axis = int(self.rng.integers(len(x.shape)))
        shape = list(x.shape)
        shape[axis] *= 2
        self.emit("Concat", [x.name, x.name], (FLOAT, tuple(shape)), axis=axis - len(shape))
        if self.rng.random() < 0.5 and x.shape[axis] > 1:
            parts = [1, shape[axis] - 1]
            results = [(FLOAT, (*x.shape[:axis], p, *x.shape[axis + 1 :])) for p in parts]
            self.emit("Split", [self.values[-1].name, self.ints(*parts)], *results, axis=axis)

    def add_slice(self) -> None:
        if (x := self.value(minimum=1)) is None:
            return
        axis = int(self.rng.integers(len(x.shape)))
        size = x.shape[axis]
        start, end, step = self.pick(
            (0, 2**63 - 1, 1), (1, size, 1), (-1, -(2**63), -1), (0, -1, 1), (0, size, 2)
        )
        kept = len(range(size)[slice(start, None if abs(end) > 2**62 else end, step)])
        operands = [self.ints(v) for v in (start, end, axis, step)]
        self.emit("Slice", [x.name, *operands], (FLOAT, (*x.shape[:axis], kept, *x.shape[axis + 1 :])))

    def add_gather(self) -> None:
        x = self.value(minimum=1)
        if x is None:
            return
        axis = int(self.rng.integers(len(x.shape)))
        if not x.shape[axis]:
            return
        indices = self.rng.integers(-x.shape[axis], x.shape[axis], self.pick((), (2,), (1, 3)))
        name = self.const(np.asarray(indices, np.int64))
        self.emit(
            "Gather",
            [x.name, name],
            (FLOAT, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),
            axis=axis,
        )

    def add_shape_of(self) -> None:
        if (x := self.value(minimum=1)) is None:
            return
        self.emit("Shape", [x.name], (INT, (len(x.shape),)))
        shape = self.values[-1].name
        index = int(self.rng.integers(len(x.shape)))
        self.emit("Gather", [shape, self.const(np.array(index, np.int64))], (INT, ()), axis=0)
        self.emit("Cast", [self.values[-1].name], (FLOAT, ()), to=FLOAT)
        if self.rng.random() < 0.5:
            self.emit("Expand", [self.values[-1].name, shape], (FLOAT, x.shape))

    def add_reduce(self) -> None:
        x = self.value(minimum=1)
        if x is None or not all(x.shape):
            return
        axis = int(self.rng.integers(len(x.shape)))
        keep = int(self.rng.integers(2))
        shape = (*x.shape[:axis], *([1] if keep else []), *x.shape[axis + 1 :])
        op = self.pick("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")
        if self.opset >= 18:
            self.emit(op, [x.name, self.ints(axis)], (FLOAT, shape), keepdims=keep)
        elif op == "ReduceSum" and self.opset >= 13:
            self.emit(op, [x.name, self.ints(axis - len(x.shape))], (FLOAT, shape), keepdims=keep)
        else:
            self.emit(op, [x.name], (FLOAT, shape), axes=[axis], keepdims=keep)

    def add_softmax(self) -> None:
        x = self.value(minimum=1)
        if x is not None and all(x.shape):
            axis = int(self.rng.integers(-len(x.shape), len(x.shape)))
            self.emit(self.pick("Softmax", "LogSoftmax"), [x.name], (FLOAT, x.shape), axis=axis)

    def add_matmul(self) -> None:
        x = self.value(minimum=2)
        if x is None or not all(x.shape):
            return
        width = int(self.rng.integers(1, 6))
        weight = self.const(self.rng.standard_normal((x.shape[-1], width)).astype(np.float32))
        self.emit("MatMul", [x.name, weight], (FLOAT, (*x.shape[:-1], width)))
        if self.rng.random() < 0.6:
            bias = self.const(
                self.rng.standard_normal(self.pick((width,), (1, width), ())).astype(np.float32)
            )
            names = [self.values[-1].name, bias]
            self.emit(
                "Add", names if self.rng.random() < 0.5 else names[::-1], (FLOAT, self.values[-1].shape)
            )

    def add_convolution(self) -> None:
        x = self.value(rank=4)
        if x is None or not all(x.shape) or min(x.shape[2:]) < 3:
            return
        filters = int(self.rng.integers(1, 4))
        group = x.shape[1] if self.rng.random() < 0.3 else 1
        out = filters * group
        weight = self.const(self.rng.standard_normal((out, x.shape[1] // group, 3, 3)).astype(np.float32))
        inputs = [x.name, weight]
        if self.rng.random() < 0.5:
            inputs.append(self.const(self.rng.standard_normal(out).astype(np.float32)))
        h, w = x.shape[2:]
        self.emit("Conv", inputs, (FLOAT, (x.shape[0], out, h, w)), pads=[1, 1, 1, 1], group=group)
        if self.rng.random() < 0.6:
            y = self.values[-1]
            scale, bias, mean = (
                self.const(self.rng.standard_normal(out).astype(np.float32)) for _ in range(3)
            )
            variance = self.const(self.rng.random(out).astype(np.float32) + 0.5)
            self.emit("BatchNormalization", [y.name, scale, bias, mean, variance], (FLOAT, y.shape))

    def add_pool(self) -> None:
        x = self.value(rank=4)
        if x is None or not all(x.shape) or min(x.shape[2:]) < 2:
            return
        shape = (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
        op = self.pick("MaxPool", "AveragePool")
        self.emit(op, [x.name], (FLOAT, shape), kernel_shape=[2, 2], strides=[2, 2])

    def add_pad(self) -> None:
        x = self.value(minimum=1)
        if x is None or len(x.shape) > 4:
            return
        before, after = (self.rng.integers(0, 2, len(x.shape)) for _ in range(2))
        shape = tuple(int(d + b + a) for d, b, a in zip(x.shape, before, after, strict=True))
        self.emit("Pad", [x.name, self.ints(*before.tolist(), *after.tolist())], (FLOAT, shape))

    def add_where(self) -> None:
        x = self.value()
        if x is None:
            return
        zero = self.const(np.zeros((), np.float32))
        self.emit(self.pick("Greater", "Less"), [x.name, zero], (BOOL, x.shape))
        self.emit("Where", [self.values[-1].name, x.name, zero], (FLOAT, x.shape))

    def add_noop(self) -> None:
        if (x := self.value()) is None:
            return
        kind = self.pick("Cast", "Dropout", "Identity", "Clip", "Pad", "Twice")
        if kind == "Cast":
            self.emit("Cast", [x.name], (FLOAT, x.shape), to=FLOAT)
        elif kind == "Twice":
            for _ in range(2):
                self.emit("Relu", [x.name], (FLOAT, x.shape))
        elif kind == "Clip":
            self.emit("Clip", [x.name, "", self.const(np.array(2, np.float32))], (FLOAT, x.shape))
        elif kind == "Pad" and x.shape:
            self.emit("Pad", [x.name, self.ints(*[0] * (2 * len(x.shape)))], (FLOAT, x.shape))
        else:
            self.emit("Dropout" if kind == "Dropout" else "Identity", [x.name], (FLOAT, x.shape))

    def add_argmax(self) -> None:
        x = self.value(minimum=1)
        if x is not None and all(x.shape):
            axis = int(self.rng.integers(len(x.shape)))
            self.emit(
                "ArgMax", [x.name], (INT, (*x.shape[:axis], *x.shape[axis + 1 :])), axis=axis, keepdims=0
            )

    def add_integers(self) -> None:
        x = self.value(INT)
        if x is not None:
            number = self.const(np.array(self.pick(-3, 2, 7), np.int64))
            self.emit(self.pick("Add", "Sub", "Mul", "Div", "Mod"), [x.name, number], (INT, x.shape))

    def add_branch(self) -> None:
        x = self.value()
        if x is None:
            return
        self.count += 1
        branches = []
        for op in ("Relu", "Neg"):
            inner = f"b{self.count}_{op}"
            graph = helper.make_graph(
                [helper.make_node(op, [x.name], [inner])],
                op,
                [],
                [helper.make_tensor_value_info(inner, FLOAT, [None] * len(x.shape))],
            )
            branches.append(graph)
        if self.rng.random() < 0.5 or not x.shape or not all(x.shape):
            condition = self.const(np.array(bool(self.rng.integers(2))))
        else:
            self.emit("Greater", [x.name, self.const(np.zeros((), np.float32))], (BOOL, x.shape))
            self.emit("Cast", [self.values[-1].name], (INT, x.shape), to=INT)
            reduced = self.values[-1].name
            if self.opset >= 13:
                self.emit("ReduceSum", [reduced], (INT, ()), keepdims=0)
            else:
                self.emit("ReduceMax", [reduced], (INT, ()), keepdims=0)
            self.emit("Cast", [self.values[-1].name], (BOOL, ()), to=BOOL)
            condition = self.values[-1].name
        self.emit("If", [condition], (FLOAT, x.shape), then_branch=branches[0], else_branch=branches[1])


def random_model(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A valid random model and feeds for it."""
    rng = np.random.default_rng(seed)
    opset = int(rng.choice([14, 15, 17, 18, 19, 20, 21]))
    grower = Grower(seed, opset)
    batch = int(rng.integers(1, 4))
    shapes = [(batch, 3, 6, 6), (batch, 4), (int(rng.integers(1, 5)),)]
    free = bool(rng.integers(2))
    inputs, feeds = [], {}
    for index, shape in enumerate(shapes[: int(rng.integers(1, 4))]):
        name = f"x{index}"
        declared: list[int | str] = ["batch", *shape[1:]] if free and len(shape) > 1 else list(shape)
        inputs.append(helper.make_tensor_value_info(name, FLOAT, declared))
        feeds[name] = rng.standard_normal(shape).astype(np.float32)
        grower.values.append(Tracked(name, FLOAT, shape))
    for _ in range(int(rng.integers(3, 25))):
        grower.grow()
    produced = [v for v in grower.values if not v.name.startswith("x")] or grower.values
    chosen = {
        v.name: v for v in [produced[-1], *(produced[int(i)] for i in rng.integers(0, len(produced), 3))]
    }
    outputs = [helper.make_tensor_value_info(v.name, v.dtype, [None] * len(v.shape)) for v in chosen.values()]
    outputs = [o for o in outputs if not o.name.startswith("x")]
    if not outputs:
        return random_model(seed + 1_000_003)
    graph = helper.make_graph(grower.nodes, f"random_{seed}", inputs, outputs, grower.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feeds
