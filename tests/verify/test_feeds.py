"""Generated feeds are deterministic, plausible and run; files are read safely."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from checking import model_from, run_onnxruntime

from graphopt.errors import FeedError, ModelError, UnsupportedError
from graphopt.ir.io import load
from graphopt.verification import generate_feeds, load_feeds, run_reference

GENERATED = sorted((Path(__file__).parents[2] / "samples" / "generated").glob("*.onnx"))
FETCHED = sorted((Path(__file__).parents[2] / "models").glob("*.onnx"))


def feeds_of(text: str, **options: Any) -> dict[str, np.ndarray]:
    """Feeds for the model in ONNX text, which ONNX Runtime accepts."""
    model = model_from(text, 18)
    feeds = generate_feeds(model, **options)
    run_onnxruntime(model, feeds)
    return feeds


@pytest.mark.parametrize("path", GENERATED, ids=lambda p: p.stem)
def test_samples_run_on_generated_feeds(path: Path) -> None:
    model = load(path)
    for seed in (0, 1):
        feeds = generate_feeds(model, seed=seed)
        outputs = run_reference(path, feeds, isolate=False)
        assert all(np.isfinite(value).all() for value in outputs.values())


@pytest.mark.models
@pytest.mark.parametrize("path", FETCHED, ids=lambda p: p.stem)
def test_fetched_models_run_on_generated_feeds(path: Path) -> None:
    model = load(path)
    dims: dict[str, int] = {}
    if "silero" in path.stem:  # windows of 576 samples, and a state for each window of the batch
        free = {v.name: [str(d) for d in v.shape or [] if not isinstance(d, int)] for v in model.graph.inputs}
        dims = dict.fromkeys(free.get("input", []), 576) | dict.fromkeys(free.get("state", []), 2)
        dims |= dict.fromkeys(free.get("input", [])[:1], 2)
    feeds = generate_feeds(model, dims=dims)
    if "sr" in feeds:
        feeds["sr"] = np.array(16000)
    run_reference(path, feeds, isolate=False)


def test_same_arguments_give_the_same_feeds_whatever_other_inputs_there_are() -> None:
    one = generate_feeds(model_from("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), seed=3)
    two = generate_feeds(
        model_from("g (float[M] a, float[N, 4] x) => (float[N, 4] y, float[M] b) { y = Relu(x) b = Abs(a) }"),
        seed=3,
    )
    np.testing.assert_array_equal(one["x"], two["x"])
    other = generate_feeds(model_from("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"), seed=4)
    assert not np.array_equal(one["x"], other["x"])


def test_sizes_are_consistent_and_can_be_given() -> None:
    model = model_from(
        "g (float[batch, 3, H, W] x, float[batch, seq] z) => (float[batch, 3, H, W] y, float[batch, seq] w) "
        "{ y = Relu(x) w = Relu(z) }"
    )
    feeds = generate_feeds(model)
    assert (feeds["x"].shape, feeds["z"].shape) == ((2, 3, 32, 32), (2, 8))
    feeds = generate_feeds(model, dims={"batch": 5, "H": 7})
    assert (feeds["x"].shape, feeds["z"].shape) == ((5, 3, 7, 32), (5, 8))


def test_indices_stay_inside_their_table_through_other_operators() -> None:
    feeds = feeds_of(
        "g (int32[N, 8] ids) => (float[N, 8, 1, 2] y) <float[3, 2] table = {1, 2, 3, 4, 5, 6}> "
        "{ a = Cast<to = 7>(ids) axes = Constant<value_ints = [2]>() "
        "b = Unsqueeze(a, axes) y = Gather(table, b) }",
        dims={"N": 50},
    )
    assert (feeds["ids"].min(), feeds["ids"].max()) == (0, 2)


def test_an_offset_before_the_table_counts() -> None:
    feeds = feeds_of(
        "g (int64[N] ids) => (float[N] y) <float[5] table = {1, 2, 3, 4, 5}, int64 two = {2}> "
        "{ a = Add(ids, two) y = Gather(table, a) }",
        dims={"N": 60},
    )
    assert (feeds["ids"].min(), feeds["ids"].max()) == (0, 2)


def test_the_smallest_of_several_tables_counts() -> None:
    feeds = feeds_of(
        "g (int64[N] i, float[7, 2] a, float[4] b) => (float[N, 2] y, float[N] z) "
        "{ y = Gather(a, i) z = Gather(b, i) }",
        dims={"N": 60},
    )
    assert feeds["i"].max() == 3


def test_a_table_with_a_symbolic_size_bounds_too() -> None:
    feeds = feeds_of(
        "g (int64[N] i, float[rows, 2] a) => (float[N, 2] y) { y = Gather(a, i) }", dims={"N": 60, "rows": 3}
    )
    assert feeds["i"].max() == 2


def test_masks_are_zero_and_one_with_a_one_in_each_row() -> None:
    feeds = feeds_of(
        "g (int64[N, 9] mask, float[N, 9] x) => (float[N, 9] y) <float one = {1.0}, float low = {-1e4}> "
        "{ m = Cast<to = 1>(mask) inverse = Sub(one, m) bias = Mul(inverse, low) y = Add(x, bias) }",
        dims={"N": 30},
    )
    assert set(np.unique(feeds["mask"])) == {0, 1}
    assert feeds["mask"].any(axis=1).all()


def test_token_numbers_that_are_compared_with_the_padding_are_no_mask() -> None:
    feeds = feeds_of(
        "g (int64[N] ids) => (float[N] y, bool[N] p) <float[9] t = {1,2,3,4,5,6,7,8,9}, int64 pad = {1}> "
        "{ y = Gather(t, ids) p = Equal(ids, pad) }",
        dims={"N": 99},
    )
    assert feeds["ids"].max() == 8


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 6] x, int64[3] s) => (float[A, B, C] y) { y = Reshape(x, s) }",
        "g (float[2, 6] x, int64[2] s) => (float[A, B] y) { y = Expand(x, s) }",
        "g (float[2, 6] x, int64[2] s) => (float[A, B] y) { y = Tile(x, s) }",
        "g (float[2, 6] x, int64[2] s, int64[2] e, int64[2] a, int64[2] p) => (float[A, B] y) "
        "{ y = Slice(x, s, e, a, p) }",
        "g (float[2, 6] x, int64[1] k) => (float[2, K] y, int64[2, K] i) { y, i = TopK(x, k) }",
        "g (int64[2] s) => (float[A, B] y) { y = ConstantOfShape(s) }",
        "g (int64 a, int64 b, int64 c) => (int64[N] y) { y = Range(a, b, c) }",
        "g (float[1, 1, 4, 4] x, int64[4] s) => (float[A, B, C, D] y) { y = Resize(x, , , s) }",
        "g (float[1, 1, 4, 4] x, float[4] s) => (float[A, B, C, D] y) { y = Resize(x, , s) }",
        "g (float[2, 6] x, int64[4] p) => (float[A, B] y) { y = Pad(x, p) }",
        "g (float[2, 6] x, int64[1] a) => (float[A, B, C] y) { y = Unsqueeze(x, a) }",
        "g (float[2, 6] x, int64[1] a) => (float[A, B] y) { y = ReduceMax(x, a) }",
        "g (float[2, 6] x, int64 a) => (float[2, 6] y) { y = CumSum(x, a) }",
        "g (int64[4] i, int64 d) => (float[4, D] y) <float[2] v = {0.0, 1.0}> { y = OneHot(i, d, v) }",
        "g (float[3, 4] x, int64[5, 2] i) => (float[5] y) { y = GatherND(x, i) }",
        "g (float[3, 4] x, int64[3, 2] i) => (float[3, 2] y) { y = GatherElements<axis = 1>(x, i) }",
        "g (float[3, 4] x, int64[2, 1] i, float[2, 4] u) => (float[3, 4] y) { y = ScatterND(x, i, u) }",
        "g (int32[5] x, int32[5] d) => (int32[5] y) { y = Div(x, d) }",
        "g (float[4, 3] x, int64[3] n) => (float[4, 3] y) "
        "{ y = ReverseSequence<time_axis = 0, batch_axis = 1>(x, n) }",
        "g (int64 n, bool c, float[2] x) => (float[2] y) { y = Loop(n, c, x) <body = b "
        "(int64 i, bool k, float[2] v) => (bool k2, float[2] v2) { k2 = Identity(k) v2 = Neg(v) }> }",
        "g (uint8[2, 3] x, float s, uint8 z) => (float[2, 3] y) { y = DequantizeLinear(x, s, z) }",
        "g (string[N] x) => (string[N] y) { y = Identity(x) }",
    ],
)
def test_operands_that_steer_shapes_are_valid(text: str) -> None:
    feeds_of(text)


def test_logarithms_are_not_fed_negative_numbers() -> None:
    feeds = feeds_of("g (float[64] x) => (float[64] y) { y = Log(x) }")
    assert (feeds["x"] > 0).all()


def test_types_are_the_declared_ones() -> None:
    feeds = generate_feeds(
        model_from(
            "g (bfloat16[4] x, complex64[4] c) => (bfloat16[4] y, complex64[4] d) "
            "{ y = Neg(x) d = Identity(c) }"
        )
    )
    assert feeds["x"].dtype == ml_dtypes.bfloat16
    assert feeds["c"].dtype == np.complex64
    assert (feeds["c"].imag != 0).all()


def test_an_input_with_a_default_is_not_fed() -> None:
    model = model_from("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    assert list(generate_feeds(model)) == ["x"]


def test_sequences_and_huge_inputs_are_refused() -> None:
    sequence = "g (seq(float[N]) x) => (float[M] y) { y = ConcatFromSequence<axis = 0>(x) }"
    with pytest.raises(UnsupportedError) as caught:
        generate_feeds(model_from(sequence))
    assert caught.value.code == "GO202"
    huge = "g (float[1000000, 1000000, 1000000] x) => (float[1000000, 1000000, 1000000] y) { y = Relu(x) }"
    with pytest.raises(ModelError) as refused:
        generate_feeds(model_from(huge))
    assert refused.value.code == "GO108"


# --- files ------------------------------------------------------------------------------------------------


def test_archives_arrays_and_folders(tmp_path: Path) -> None:
    x, z = np.arange(3.0), np.array([[1]])
    np.savez(tmp_path / "a.npz", x=x, z=z)
    np.savez_compressed(tmp_path / "b.npz", x=x + 1)
    (one,) = load_feeds(tmp_path / "a.npz")
    assert sorted(one) == ["x", "z"]
    assert one["x"].tolist() == [0, 1, 2]
    assert [sorted(run) for run in load_feeds(tmp_path)] == [["x", "z"], ["x"]]
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", x)
    np.save(folder / "z.npy", z)
    assert [sorted(run) for run in load_feeds(folder)] == [["x", "z"]]
    assert load_feeds(folder / "z.npy")[0]["z"].tolist() == [[1]]


def test_onnx_test_data(tmp_path: Path) -> None:
    for number in (0, 1, 10, 2):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for index in range(12):
            tensor = onnx.numpy_helper.from_array(np.array([number, index]), f"in{index}")
            (folder / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
        (folder / "output_0.pb").write_bytes(b"")
    runs = load_feeds(tmp_path)
    assert [run["in0"][0] for run in runs] == [0, 1, 2, 10]
    assert [int(value[1]) for value in runs[0].values()] == list(range(12))
    (one,) = load_feeds(tmp_path / "test_data_set_1", inputs=["a", "b"])
    assert list(one)[:3] == ["a", "b", "in2"]


def _external() -> bytes:
    tensor = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "x")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return tensor.SerializeToString()


@pytest.mark.parametrize(
    "name", ["x.npz", "x.npy", "x.txt", "missing.npz", "pickled.npy", "pickled.npz", "x.pb"]
)
def test_what_is_no_data_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pickled.npy":
        np.save(path, np.array([{}], dtype=object))
    elif name == "pickled.npz":
        np.savez(path, x=np.array([{}], dtype=object))
    elif not name.startswith("missing"):
        path.write_bytes(b"\x93NUMPY\x01\x00 not really")
    with pytest.raises(FeedError) as caught:
        load_feeds(path)
    assert caught.value.code == "GO603"


@pytest.mark.parametrize(
    "content", [b"\xff\xff\xff", _external(), onnx.TensorProto(name="x").SerializeToString()]
)
def test_broken_test_data_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input_0.pb").write_bytes(content)
    with pytest.raises(FeedError, match="GO603"):
        load_feeds(tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.verification.feed_files.MAX_FILE_BYTES", 10_000)
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(100_000, np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < 10_000
    with pytest.raises(FeedError, match="too large when unpacked"):
        load_feeds(tmp_path / "x.npz")


def test_a_pipe_or_an_empty_folder_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="no data"):
        load_feeds(tmp_path)
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(FeedError, match="regular file"):
        load_feeds(tmp_path / "x.npz")


def test_an_archive_member_is_only_read_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("../evil.npy", b"no array")
    with pytest.raises(FeedError, match="GO603"):
        load_feeds(tmp_path / "x.npz")
    assert not (tmp_path.parent / "evil.npy").exists()
