"""Tensors and types of a model file, held against what they declare before anybody believes them."""

from __future__ import annotations

import math

import onnx

from graphopt.errors import ModelError, UnsupportedError
from graphopt.ir import DataType
from graphopt.ir.external import ExternalFiles

MAX_RANK = 64
"""As many dimensions as a numpy array can have."""
MAX_TYPE_NESTING = 16

_KNOWN_TYPES = {int(t): t for t in DataType if t != DataType.UNDEFINED}
_DATA_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_INT32_TYPES = """
    INT32 INT16 INT8 UINT16 UINT8 BOOL FLOAT16 BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2
    FLOAT8E5M2FNUZ FLOAT8E8M0 INT4 UINT4 FLOAT4E2M1 INT2 UINT2 FLOAT6E2M3 FLOAT6E3M2
"""
_FIELD_OF = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
    **dict.fromkeys(_INT32_TYPES.split(), "int32_data"),
}


def check_text(value: object, where: str) -> str:
    """`value` if it is text; protobuf gives bytes where a file's text is not UTF-8 (GO103)."""
    if isinstance(value, str):
        return value
    raise ModelError(
        "GO103",
        "a name or text in the model is not UTF-8",
        where=where,
        found=repr(value)[:80],
        next_step="The file is corrupt or was not written by an ONNX exporter; export it again.",
    )


def check_tensor(proto: onnx.TensorProto, where: str, files: ExternalFiles) -> None:
    """Check the data of `proto` against its declared type and shape; resolve external data.

    Raises:
        ModelError: GO107 if they do not match, GO104 if external data cannot be used, GO108 on a rank
            that no array has.
        UnsupportedError: GO112 for a tensor in segments.
    """
    check_text(proto.doc_string, where)
    for entry in proto.metadata_props:
        check_text(entry.key, where), check_text(entry.value, where)
    dtype = _KNOWN_TYPES.get(proto.data_type)
    if dtype is None:
        raise _mismatch(where, "unknown element type", found=f"number {proto.data_type}")
    if proto.HasField("segment"):
        raise UnsupportedError("GO112", "a tensor in segments", where=where)
    size = _size(proto, where)
    nbytes = -(-size * dtype.bitwidth // 8) if dtype != DataType.STRING else 0
    used = [f for f in _DATA_FIELDS if len(getattr(proto, f))]
    has_raw = proto.HasField("raw_data")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        if dtype == DataType.STRING or used or (has_raw and proto.raw_data):
            raise ModelError("GO104", "external data for strings or beside inline data", where=where)
        proto.ClearField("raw_data")
        files.check(proto, where, nbytes)
        return
    if has_raw and (dtype == DataType.STRING or used):
        raise _mismatch(where, "raw data beside typed data, or for strings")
    if has_raw:
        if len(proto.raw_data) != nbytes:
            raise _mismatch(
                where,
                "the data is too long or too short",
                found=f"{len(proto.raw_data)} bytes",
                expected=f"{nbytes} bytes for {dtype.name}{list(proto.dims)}",
            )
        return
    field = _FIELD_OF[dtype.name]
    if extra := [f for f in used if f != field]:
        raise _mismatch(where, "the data is in the wrong field", found=extra[0], expected=field)
    count = _field_count(dtype, size)
    if len(getattr(proto, field)) != count:
        raise _mismatch(
            where,
            "too much or too little data",
            found=f"{len(getattr(proto, field))} values",
            expected=f"{count} values for {dtype.name}{list(proto.dims)}",
        )


def _size(proto: onnx.TensorProto, where: str) -> int:
    """The number of elements that `proto` declares, small enough for numpy to address."""
    dims = list(proto.dims)
    if len(dims) > MAX_RANK:
        raise ModelError(
            "GO108", "the tensor's rank is too large", where=where, found=len(dims), expected=f"<= {MAX_RANK}"
        )
    if any(d < 0 for d in dims):
        raise _mismatch(where, "a dimension is negative", found=dims)
    # numpy multiplies the dimensions other than 0 even of an array without elements.
    if math.prod(d for d in dims if d) >= 1 << 59:
        raise _mismatch(where, "the shape is larger than any memory", found=dims)
    return math.prod(dims)


def _field_count(dtype: DataType, size: int) -> int:
    """The number of entries in the typed field: packed types share one, complex numbers take two."""
    if dtype in (DataType.COMPLEX64, DataType.COMPLEX128):
        return 2 * size
    if dtype != DataType.STRING and dtype.bitwidth in (2, 4):
        return -(-size * dtype.bitwidth // 8)
    return size


def _mismatch(where: str, message: str, *, found: object = None, expected: object = None) -> ModelError:
    return ModelError("GO107", message, where=where, found=found, expected=expected)


def check_type(proto: onnx.TypeProto, where: str, depth: int = 0) -> None:
    """Check that `proto` is a type that the IR has.

    An element type that is not stated is cleared, so that it counts as unknown.

    Raises ModelError GO105 or GO108, UnsupportedError GO112.
    """
    if depth > MAX_TYPE_NESTING:
        raise ModelError("GO108", "the type is nested too deeply", where=where)
    check_text(proto.denotation, where)
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        inner = getattr(proto, kind)
        element = inner.elem_type
        check_type(element, where, depth + 1)
        if element.WhichOneof("value") is None:
            raise ModelError("GO105", f"a {kind.removesuffix('_type')} without an element type", where=where)
        return
    if kind in ("map_type", "opaque_type", "sparse_tensor_type"):
        raise UnsupportedError(
            "GO112",
            f"its type is a {kind.removesuffix('_type').replace('_', ' ')}, which graphopt has no form for",
            where=where,
            next_step="Export the model so that it takes and gives tensors (scikit-learn: zipmap=False).",
        )
    if kind != "tensor_type":
        return
    tensor = proto.tensor_type
    for dim in tensor.shape.dim:
        check_text(dim.dim_param, where), check_text(dim.denotation, where)
    if not tensor.elem_type:
        if depth:
            raise ModelError("GO105", "a nested type without an element type", where=where)
        proto.ClearField("tensor_type")
    elif tensor.elem_type not in _KNOWN_TYPES:
        raise ModelError("GO105", "unknown element type", where=where, found=f"number {tensor.elem_type}")
    elif len(tensor.shape.dim) > MAX_RANK:
        raise ModelError("GO108", "the rank is too large", where=where, found=len(tensor.shape.dim))
