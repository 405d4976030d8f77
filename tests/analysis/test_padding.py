"""What padding is proven to leave alone, operator family by operator family, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from checking import model_from, run_onnxruntime, run_xla
from padded_runs import PADDED, check_proof

from graphopt.analysis.padding import PaddedAxis, prove_padding
from graphopt.errors import UnsupportedError
from graphopt.ir import Model
from graphopt.runtime.buckets import cut

PROVEN = {
    "elementwise": "g (float[N, 4] x) => (float[N, 4] y) { a = Exp(x) b = Sigmoid(a) y = Add(b, x) }",
    "broadcast": "g (float[N, 4] x, float[4] b, float[N, 1] c) => (float[N, 4] y) { a = Add(x, b) y = Mul(a, c) }",
    "where": "g (float[N, 4] x, bool[N, 1] m) => (float[N, 4] y) <float[1] z = {0}> { y = Where(m, x, z) }",
    "clip": "g (float[N, 4] x) => (float[N, 4] y) <float lo = {0}, float hi = {1}> { y = Clip(x, lo, hi) }",
    "cast": "g (float[N, 4] x) => (int64[N, 4] y) { a = Relu(x) b = Clip(a) y = Cast<to=7>(b) }",
    "rows of a product": """g (float[N, 4] x) => (float[N, 2] y)
        <float[4,2] w = {1,2,3,4,5,6,7,8}> { y = MatMul(x, w) }""",
    "columns of a product": """g (float[4, N] x) => (float[2, N] y)
        <float[2,4] w = {1,2,3,4,5,6,7,8}> { y = MatMul(w, x) }""",
    "batch of a product": "g (float[N, 2, 4] x, float[N, 4, 3] z) => (float[N, 2, 3] y) { y = MatMul(x, z) }",
    "broadcast product": "g (float[N, 2, 4] x, float[1, 4, 3] z) => (float[N, 2, 3] y) { y = MatMul(x, z) }",
    "product by a vector": "g (float[N, 2, 4] x, float[4] z) => (float[N, 2] y) { y = MatMul(x, z) }",
    "gemm": """g (float[N, 4] x, float[2] c) => (float[N, 2] y)
        <float[2,4] w = {1,2,3,4,5,6,7,8}> { y = Gemm<transB=1>(x, w, c) }""",
    "gemm turned": """g (float[4, N] x) => (float[N, 2] y)
        <float[2,4] w = {1,2,3,4,5,6,7,8}> { y = Gemm<transA=1, transB=1>(x, w) }""",
    "einsum": 'g (float[N, 2, 4] x, float[4, 3] z) => (float[2, N, 3] y) { y = Einsum<equation="bij,jk->ibk">(x, z) }',
    "transpose": "g (float[2, N, 4] x) => (float[N, 4, 2] y) { y = Transpose<perm=[1,2,0]>(x) }",
    "merged as the outer": "g (float[N, 2, 4] x) => (float[M, 4] y) <int64[2] s = {-1, 4}> { y = Reshape(x, s) }",
    "merged as the inner": "g (float[2, N, 4] x) => (float[M, 4] y) <int64[2] s = {-1, 4}> { y = Reshape(x, s) }",
    "merged in the middle": "g (float[2, N, 4] x) => (float[M] y) <int64[1] s = {-1}> { y = Reshape(x, s) }",
    "merged and split again": """g (float[N, 6, 4] x) => (float[N, 6, 4] y)
        <int64[2] s = {-1, 4}, int64[3] t = {-1, 6, 4}> { a = Reshape(x, s) b = Relu(a) y = Reshape(b, t) }""",
    "merged, split by its size": """g (float[2, N, 4] x) => (float[2, N, 4] y)
        <int64[1] last = {4}, int64[1] two = {2}, int64[2] s = {-1, 4}> {
        a = Reshape(x, s) b = Relu(a) n = Shape<start=1, end=2>(x) t = Concat<axis=0>(two, n, last)
        y = Reshape(b, t) }""",
    "merged with a free one": "g (float[S, N, 4] x) => (float[M, 4] y) <int64[2] s = {-1, 4}> { y = Reshape(x, s) }",
    "heads": """g (float[N, S, 8] x) => (float[N, 2, S, 4] y)
        <int64[4] s = {0, 0, 2, 4}> { a = Reshape(x, s) y = Transpose<perm=[0,2,1,3]>(a) }""",
    "flatten": "g (float[N, 2, 4] x) => (float[N, 8] y) { y = Flatten(x) }",
    "flatten it into the first": "g (float[2, N, 4] x) => (float[M, 4] y) { y = Flatten<axis=2>(x) }",
    "squeeze and unsqueeze": """g (float[1, N, 4] x) => (float[N, 1, 4] y)
        <int64[1] a = {0}, int64[1] b = {1}> { s = Squeeze(x, a) y = Unsqueeze(s, b) }""",
    "expand by its size": """g (float[N, 4] x) => (float[N, 4] y) <float[1,4] c = {1,2,3,4}> {
        s = Shape(x) e = Expand(c, s) y = Add(x, e) }""",
    "expand beside it": "g (float[N, 1] x) => (float[N, 4] y) <int64[2] s = {1, 4}> { y = Expand(x, s) }",
    "a constant of its size": """g (float[N, 4] x) => (float[N, 4] y) {
        s = Shape(x) c = ConstantOfShape<value = float[1] {2}>(s) y = Mul(x, c) }""",
    "positions": """g (float[N, 4] x) => (float[N, 4] y) <int64 zero = {0}, int64 one = {1}, int64[1] a = {1}> {
        n = Shape<start=0, end=1>(x) m = Squeeze(n) r = Range(zero, m, one) f = Cast<to=1>(r)
        u = Unsqueeze(f, a) y = Add(x, u) }""",
    "another size as a number": """g (float[N, S] x) => (float[N, S] y) <int64 i = {1}> {
        s = Shape(x) n = Gather<axis=0>(s, i) f = Cast<to=1>(n) y = Div(x, f) }""",
    "tile": "g (float[N, 2] x) => (float[M, 2] y) <int64[2] r = {3, 1}> { y = Tile(x, r) }",
    "slice beside it": """g (float[N, 8] x) => (float[N, 3] y)
        <int64[1] s = {1}, int64[1] e = {4}, int64[1] a = {1}> { y = Slice(x, s, e, a) }""",
    "slice of all of it": """g (float[N, 8] x) => (float[N, 3] y)
        <int64[2] s = {0, 1}, int64[2] e = {1000000, 4}, int64[2] a = {0, 1}> { y = Slice(x, s, e, a) }""",
    "the first of it": "g (float[N, 4] x) => (float[4] y) <int64 i = {0}> { y = Gather<axis=0>(x, i) }",
    "the first rows of a table": """g (float[N, 4] x, float[64, 4] t) => (float[N, 4] y)
        <int64[1] zero = {0}> { n = Shape<start=0, end=1>(x) p = Slice(t, zero, n) y = Add(x, p) }""",
    "concat beside it": "g (float[N, 2] x, float[N, 3] z) => (float[N, 5] y) { y = Concat<axis=1>(x, z) }",
    "split beside it": "g (float[N, 4] x) => (float[N, 2] y, float[N, 2] z) { y, z = Split<axis=1, num_outputs=2>(x) }",
    "pad beside it": "g (float[N, 4] x) => (float[N, 7] y) <int64[4] p = {0, 1, 0, 2}> { y = Pad(x, p) }",
    "embedding": "g (int64[N, S] x) => (float[N, S, 2] y) <float[3, 2] t = {1,2,3,4,5,6}> { y = Gather(t, x) }",
    "gather beside it": "g (float[N, 4] x) => (float[N, 2] y) <int64[2] i = {3, -1}> { y = Gather<axis=1>(x, i) }",
    "gather elements": "g (float[N, 4] x, int64[N, 2] i) => (float[N, 2] y) { y = GatherElements<axis=1>(x, i) }",
    "gather in batches": "g (float[N, 4] x, int64[N, 1] i) => (float[N] y) { y = GatherND<batch_dims=1>(x, i) }",
    "scatter beside it": """g (float[4, N] x, float[1, N] u) => (float[4, N] y)
        <int64[1,1] i = {2}> { y = ScatterND(x, i, u) }""",
    "one hot": """g (int64[N] x) => (float[N, 3] y) <int64 d = {3}, float[2] v = {0, 1}> { y = OneHot(x, d, v) }""",
    "reduction": "g (float[N, 4, 2] x) => (float[N] y) <int64[2] a = {1, 2}> { y = ReduceSum<keepdims=0>(x, a) }",
    "mean with its axis kept": "g (float[4, N] x) => (float[1, N] y) <int64[1] a = {0}> { y = ReduceMean(x, a) }",
    "argmax": "g (float[N, 4] x) => (int64[N, 1] y) { y = ArgMax<axis=1>(x) }",
    "softmax": "g (float[N, 4] x) => (float[N, 4] y) { y = Softmax(x) }",
    "layer normalization": """g (float[N, S, 4] x) => (float[N, S, 4] y)
        <float[4] s = {1,2,3,4}, float[4] b = {0,1,0,1}> { y = LayerNormalization(x, s, b) }""",
    "cumulative sum": "g (float[N, 4] x) => (float[N, 4] y) <int64 a = {1}> { y = CumSum(x, a) }",
    "top k": "g (float[N, 4] x) => (float[N, 2] y, int64[N, 2] i) <int64[1] k = {2}> { y, i = TopK(x, k) }",
    "trilu": "g (float[2, N, N] x) => (float[2, N, N] y) { y = Trilu<upper=0>(x) }",
    "convolution": """g (float[N, 2, 5] x) => (float[N, 1, 4] y)
        <float[1,2,2] w = {1,2,3,4}, float[1] b = {1}> { y = Conv(x, w, b) }""",
    "batch normalization": """g (float[N, 2, 3] x) => (float[N, 2, 3] y)
        <float[2] s = {1,2}, float[2] b = {3,4}, float[2] m = {1,0}, float[2] v = {1,2}> {
        y = BatchNormalization(x, s, b, m, v) }""",
    "instance normalization": """g (float[N, 2, 3] x) => (float[N, 2, 3] y)
        <float[2] s = {1,2}, float[2] b = {3,4}> { y = InstanceNormalization(x, s, b) }""",
    "pooling and its places": """g (float[N, 2, 4, 4] x) => (float[N, 2, 2, 2] y, int64[N, 2, 2, 2] i) {
        y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }""",
    "global pooling": "g (float[N, 2, 4, 4] x) => (float[N, 2, 1, 1] y) { y = GlobalAveragePool(x) }",
    "resize beside it": """g (float[N, 1, 2, 2] x) => (float[N, 1, 4, 4] y) <float[4] s = {1, 1, 2, 2}> {
        y = Resize<mode="linear">(x, , s) }""",
    "lstm": """g (float[2, N, 3] x, float[1, N, 1] h) => (float[2, 1, N, 1] y, float[1, N, 1] z)
        <float[1,4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[1,4,1] r = {1,2,3,4}> {
        y, z = LSTM<hidden_size=1>(x, w, r, , , h) }""",
    "quantized": """g (float[N, 4] x) => (float[N, 4] y) <float s = {0.5}, uint8 z = {3}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
    "if": """g (float[N, 4] x, bool c) => (float[N, 4] y) {
        y = If(c) <then_branch = t () => (float[N, 4] a) { a = Relu(x) },
                   else_branch = e () => (float[N, 4] b) { b = Neg(x) }> }""",
    "loop": """g (float[N, 4] x) => (float[N, 4] y, float[3, N, 4] z) <int64 m = {3}, bool c = {1}> {
        y, z = Loop(m, c, x) <body = b (int64 i, bool ci, float[N, 4] v) => (bool co, float[N, 4] w, float[N, 4] s) {
            co = Identity(ci) w = Tanh(v) s = Add(w, x) }> }""",
    "scan beside it": """g (float[N, 1] h, float[3, N, 1] x) => (float[N, 1] y, float[3, N, 1] z) {
        y, z = Scan<num_scan_inputs = 1, body = b (float[N, 1] s, float[N, 1] v) => (float[N, 1] t, float[N, 1] o) {
            t = Add(s, v) o = Neg(t) }>(h, x) }""",
    "scan along it": """g (float[2] h, float[N, 2] x) => (float[N, 2] z) {
        y, z = Scan<num_scan_inputs = 1, body = b (float[2] s, float[2] v) => (float[2] t, float[2] o) {
            t = Add(s, v) o = Neg(t) }>(h, x) }""",
    "a result without it": "g (float[N, 4] x, float[2] c) => (float[N, 4] y, float[2] z) { y = Relu(x) z = Relu(c) }",
    "what nobody sees": """g (float[N, 4] x) => (float[N, 4] y) <int64[1] a = {0}> {
        m = ReduceMean(x, a) y = Relu(x) }""",
}
NEWER = {
    "attention": """g (float[N, 2, S, 4] q, float[N, 2, S, 4] k, float[N, 2, S, 4] v) => (float[N, 2, S, 4] y) {
        y = Attention(q, k, v) }""",
    "attention along its queries": """g (float[1, 2, N, 4] q, float[1, 2, 3, 4] k, float[1, 2, 3, 4] v, float[N, 3] m)
        => (float[1, 2, N, 4] y) { y = Attention(q, k, v, m) }""",
    "masked attention": """g (float[N, S, 4] q, float[N, S, 4] k, float[N, S, 4] v, bool[N, 1, S, S] m)
        => (float[N, S, 4] y) { y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, m) }""",
}

REFUSED: dict[str, tuple[str, str, str]] = {
    "contraction": (
        "g (float[2, N] x, float[N, 3] z) => (float[2, 3] y) { y = MatMul(x, z) }",
        "MatMul",
        "adds up over 'N', on axis -1",
    ),
    "dot product": ("g (float[N] x, float[N] z) => (float y) { y = MatMul(x, z) }", "MatMul", "adds up over"),
    "gram": (
        "g (float[N, 4] x) => (float[4, 4] y) { t = Transpose(x) y = MatMul(t, x) }",
        "MatMul",
        "adds up over",
    ),
    "einsum": (
        'g (float[N, 2] x, float[N, 3] z) => (float[2, 3] y) { y = Einsum<equation="ni,nj->ij">(x, z) }',
        "Einsum",
        "adds up over",
    ),
    "reduction": (
        "g (float[N, 4] x) => (float[4] y) <int64[1] a = {0}> { y = ReduceSum<keepdims=0>(x, a) }",
        "ReduceSum",
        "reduces over 'N', on axis 0",
    ),
    "reduction of all": (
        "g (float[N, 4] x) => (float y) { y = ReduceMax<keepdims=0>(x) }",
        "ReduceMax",
        "reduces",
    ),
    "batch statistics": (
        """g (float[N, 4] x) => (float[N, 4] y) <int64[1] a = {0}> { m = ReduceMean(x, a) y = Sub(x, m) }""",
        "ReduceMean",
        "reduces over",
    ),
    "softmax": (
        "g (float[4, N] x) => (float[4, N] y) { y = Softmax(x) }",
        "Softmax",
        "normalizes over 'N', on axis 1",
    ),
    "layer normalization": (
        "g (float[4, N] x, float[N] s) => (float[4, N] y) { y = LayerNormalization(x, s) }",
        "LayerNormalization",
        "normalizes over",
    ),
    "cumulative sum": (
        "g (float[N, 4] x) => (float[N, 4] y) <int64 a = {0}> { y = CumSum<reverse=1>(x, a) }",
        "CumSum",
        "adds up along",
    ),
    "top k": (
        "g (float[N, 4] x) => (float[2, 4] y) <int64[1] k = {2}> { y, i = TopK<axis=0>(x, k) }",
        "TopK",
        "ranks",
    ),
    "argmax": ("g (float[N, 4] x) => (int64[1, 4] y) { y = ArgMax<axis=0>(x) }", "ArgMax", "reduces over"),
    "convolution": (
        "g (float[1, 2, N] x) => (float[1, 1, M] y) <float[1,2,2] w = {1,2,3,4}> { y = Conv(x, w) }",
        "Conv",
        "works along 'N'",
    ),
    "pooling": (
        "g (float[1, 2, N] x) => (float[1, 2, 1] y) { y = GlobalMaxPool(x) }",
        "GlobalMaxPool",
        "works along",
    ),
    "resize": (
        'g (float[1, 1, N] x) => (float[1, 1, M] y) <float[3] s = {1, 1, 2}> { y = Resize<mode="linear">(x, , s) }',
        "Resize",
        "resizes 'N'",
    ),
    "lstm": (
        """g (float[N, 2, 3] x) => (float[N, 1, 2, 1] y)
        <float[1,4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[1,4,1] r = {1,2,3,4}> { y = LSTM<hidden_size=1>(x, w, r) }""",
        "LSTM",
        "steps",
    ),
    "training": (
        """g (float[N, 2] x) => (float[N, 2] y)
        <float[2] s = {1,2}, float[2] b = {3,4}, float[2] m = {1,0}, float[2] v = {1,2}> {
        y, p, q = BatchNormalization<training_mode=1>(x, s, b, m, v) }""",
        "BatchNormalization",
        "mean and variance over 'N'",
    ),
    "quantization": (
        "g (float[N, 4] x) => (uint8[N, 4] y) { y, s, z = DynamicQuantizeLinear(x) }",
        "DynamicQuantizeLinear",
        "least and largest",
    ),
    "a mean by its size": (
        "g (float[N, 4] x) => (float[N, 4] y) { n = Shape<end=1>(x) f = Cast<to=1>(n) y = Div(x, f) }",
        "Div",
        "computes with the size of 'N'",
    ),
    "its size as a result": (
        "g (float[N, 4] x) => (float[N, 4] y, int64[2] z) { y = Relu(x) z = Shape(x) }",
        "Shape",
        "the output holds sizes",
    ),
    "positions from the end": (
        """g (float[N, 4] x) => (float[N] y) <int64 o = {0}, int64 m = {-1}> {
        s = Shape<end=1>(x) n = Squeeze(s) r = Range(n, o, m) y = Cast<to=1>(r) }""",
        "Range",
        "computes with the size of 'N'",
    ),
    "interleaved": (
        "g (float[N, 4] x) => (float[2, M] y) <int64[2] s = {2, -1}> { y = Reshape(x, s) }",
        "Reshape",
        "'N'",
    ),
    "taken apart": (
        "g (float[N, 4] x) => (float[M, 3] y) <int64[2] s = {-1, 3}> { y = Reshape(x, s) }",
        "Reshape",
        "takes 'N' apart",
    ),
    "folded into another": (
        "g (float[N, 4, N] x) => (float[M] y) <int64[1] s = {-1}> { y = Reshape(x, s) }",
        "Reshape",
        "an axis of its own",
    ),
    "the last of it": (
        "g (float[N, 4] x) => (float[4] y) <int64 i = {-1}> { y = Gather<axis=0>(x, i) }",
        "Gather",
        "picks along 'N', on axis 0",
    ),
    "all but its first": (
        "g (float[N, 4] x) => (float[M, 4] y) <int64[1] s = {1}, int64[1] e = {9999}> { y = Slice(x, s, e) }",
        "Slice",
        "takes a part of",
    ),
    "reversed": (
        "g (float[N] x) => (float[N] y) <int64[1] s={-1}, int64[1] e={-9999}, int64[1] a={0}, int64[1] t={-1}> {"
        " y = Slice(x, s, e, a, t) }",
        "Slice",
        "takes a part of",
    ),
    "its last rows of a table": (
        """g (float[N, 4] x) => (float[N, 4] y) <float[4,4] t = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16},
        int64[1] zero = {0}> { n = Shape<end=1>(x) p = Slice(t, zero, n) y = Add(x, p) }""",
        "Slice",
        "is no multiple of 'N'",
    ),
    "concatenated": (
        "g (float[N, 4] x, float[2, 4] z) => (float[M, 4] y) { y = Concat<axis=0>(x, z) }",
        "Concat",
        "puts something behind",
    ),
    "padded by the model": (
        "g (float[N, 4] x) => (float[M, 4] y) <int64[4] p = {0, 0, 1, 0}> { y = Pad(x, p) }",
        "Pad",
        "pads 'N' too",
    ),
    "indexed by itself": (
        "g (float[N, 4] x, int64[N] i) => (float[N, 4] y) { y = Gather<axis=0>(x, i) }",
        "Gather",
        "picks along",
    ),
    "written by rows of it": (
        "g (float[4] x, int64[N, 1] i, float[N] u) => (float[4] y) { y = ScatterND(x, i, u) }",
        "ScatterND",
        "depends on 'N'",
    ),
    "another size": (
        "g (float[N, 4] x, float[3, 4] z) => (float[M, 4] y) { y = Add(x, z) }",
        "Add",
        "operands of other sizes",
    ),
    "another free size": (
        "g (float[N, 4] x, float[S, 4] z) => (float[M, 4] y) { y = Add(x, z) }",
        "Add",
        "operands of other sizes",
    ),
    "values that are sizes": (
        "g (float[N, 4] x) => (float[M, K] y) { i = NonZero(x) y = Cast<to=1>(i) }",
        "NonZero",
        "nothing is known",
    ),
    "random numbers": (
        "g (float[N, 4] x) => (float[N, 4] y) { r = RandomNormalLike(x) y = Add(x, r) }",
        "RandomNormalLike",
        "random",
    ),
    "a branch by it": (
        """g (float[N, 4] x) => (float[N, 4] y) <int64[1] two = {2}> { n = Shape<end=1>(x) c = Greater(n, two)
        y = If(c) <then_branch = t () => (float[N, 4] a) { a = Relu(x) },
                   else_branch = e () => (float[N, 4] b) { b = Neg(x) }> }""",
        "If",
        "computes with the size",
    ),
    "in a body": (
        """g (float[N, 4] x) => (float[N, 4] y) <int64 m = {3}, bool c = {1}> {
        y = Loop(m, c, x) <body = b (int64 i, bool ci, float[N, 4] v) => (bool co, float[N, 4] w) {
            co = Identity(ci) w = Softmax<axis=0>(v) }> }""",
        "Loop",
        "normalizes over 'N'",
    ),
    "turns by it": (
        """g (float[N, 4] x, float[2] z) => (float[2] y) <bool c = {1}, int64 zero = {0}> {
        s = Shape(x) n = Gather(s, zero)
        y = Loop(n, c, z) <body = b (int64 i, bool ci, float[2] v) => (bool co, float[2] w) {
            co = Identity(ci) w = Tanh(v) }> }""",
        "Loop",
        "computes with the size",
    ),
    "the last state of a scan": (
        """g (float[2] h, float[N, 2] x) => (float[2] y) {
        y, z = Scan<num_scan_inputs = 1, body = b (float[2] s, float[2] v) => (float[2] t, float[2] o) {
            t = Add(s, v) o = Neg(t) }>(h, x) }""",
        "Scan",
        "after the padded steps",
    ),
}

REFUSED_NEWER = {
    "attention over it": (
        """g (float[1, 2, 3, 4] q, float[1, 2, N, 4] k, float[1, 2, N, 4] v) => (float[1, 2, 3, 4] y) {
        y = Attention(q, k, v) }""",
        "Attention",
        "adds up over 'N', on axis 2",
    ),
    "masked attention over it": (
        """g (float[1, 2, 3, 4] q, float[1, 2, N, 4] k, float[1, 2, N, 4] v, bool[3, N] m) => (float[1, 2, 3, 4] y) {
        y = Attention(q, k, v, m) }""",
        "Attention",
        "adds up over",
    ),
    "causal attention": (
        """g (float[1, 2, N, 4] q, float[1, 2, 3, 4] k, float[1, 2, 3, 4] v) => (float[1, 2, N, 4] y) {
        y = Attention<is_causal=1>(q, k, v) }""",
        "Attention",
        "how many queries",
    ),
}


@pytest.mark.parametrize("case", PROVEN)
def test_what_is_proven_holds(case: str) -> None:
    check_proof(model_from(PROVEN[case]))


@pytest.mark.parametrize("case", NEWER)
def test_what_is_proven_of_newer_operators_holds(case: str) -> None:
    check_proof(model_from(NEWER[case], 23))


ON_XLA = [
    "rows of a product",
    "merged, split by its size",
    "cumulative sum",
    "softmax",
    "layer normalization",
    "convolution",
    "pooling and its places",
    "lstm",
    "scan along it",
]


@pytest.mark.parametrize("case", ON_XLA)
def test_what_is_proven_holds_on_xla(case: str) -> None:
    check_proof(model_from(PROVEN[case]), run_xla)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    text, op, why = REFUSED[case]
    _check_refused(model_from(text), op, why)


@pytest.mark.parametrize("case", REFUSED_NEWER)
def test_what_is_refused_of_newer_operators(case: str) -> None:
    text, op, why = REFUSED_NEWER[case]
    _check_refused(model_from(text, 23), op, why)


def _check_refused(model: Model, op: str, why: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        prove_padding(model, "N", PADDED)
    error = caught.value
    assert error.code == "GO210" and (error.where or "").startswith(f"{op} ") and why in error.message, str(
        error
    )
    assert error.details["dim"] == "N" and "--buckets exact" in (error.next_step or "")


def test_where_it_lies_in_results() -> None:
    model = model_from(PROVEN["merged with a free one"])
    assert prove_padding(model, "N", 8).outputs == {"y": (PaddedAxis(0, 1, ("S",)),)}
    model = model_from(PROVEN["merged in the middle"])
    assert prove_padding(model, "N", 8).outputs == {"y": (PaddedAxis(0, 2),)}


def test_two_dimensions_are_cut_one_after_the_other() -> None:
    model = model_from(
        "g (float[S, N, 2] x) => (float[M, 2] y) <int64[2] s = {-1, 2}> { a = Reshape(x, s) y = Neg(a) }"
    )
    rows = prove_padding(model, "N", 8).outputs["y"], prove_padding(model, "S", 8).outputs["y"]
    x = np.arange(4 * 5 * 2, dtype="float32").reshape(4, 5, 2)
    y = run_onnxruntime(model, {"x": x})["y"]
    y = cut(y, rows[0][0], {"S": 4, "N": 5}, "N", 3)
    y = cut(y, rows[1][0], {"S": 4, "N": 3}, "S", 2)
    np.testing.assert_array_equal(y, -x[:2, :3].reshape(-1, 2))


def test_the_first_node_in_the_way_is_named() -> None:
    model = model_from(
        """g (float[N, 4] x) => (float[4, N] y, float[N, 4] z) {
        t = Transpose(x) [first] z = Softmax<axis=0>(x) [second] y = Softmax<axis=1>(t) }"""
    )
    with pytest.raises(UnsupportedError) as caught:
        prove_padding(model, "N", 8)
    assert caught.value.details["node"] == "first"


def test_a_clipped_table_is_fine_up_to_its_rows() -> None:
    text = REFUSED["its last rows of a table"][0]
    assert prove_padding(model_from(text), "N", 4).outputs == {"y": (PaddedAxis(0),)}
