"""Plans for ONNX Runtime: the right options for the model, names that ONNX Runtime knows, and they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from checking import model_from

from graphopt.errors import LoweringError, PolicyError, UsageError
from graphopt.lowering.cuda.choices import PROVIDER_VALUES
from graphopt.lowering.cuda.ort import OrtPlan, lower_ort, placement_notes
from graphopt.runtime.devices import cuda_device_count
from graphopt.runtime.ort import _PLAN_OPTIONS, OrtSession
from graphopt.target import Target

STATIC = "g (float[1, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[1, 4, 6, 6] y) { y = Conv(x, w) }"
DYNAMIC = (
    "g (float[N, 3, H, 8] x, float[4, 3, 3, 3] w, float[N] b) => (float[N, 4, A, 6] y, float[N] c) "
    "{ y = Conv(x, w) c = Neg(b) }"
)
MLP = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"
PROFILES = {"N": (1, 4, 16), "H": (8, 8, 32)}


def plan_of(text: str, target: str = "cuda", **options: Any) -> OrtPlan:
    return lower_ort(model_from(text), Target.parse(target), **options)


def options_of(text: str, target: str = "cuda", **options: Any) -> dict[str, str]:
    """The options of the first provider."""
    return plan_of(text, target, **options).providers[0][1]


@pytest.mark.parametrize(
    ("target", "providers"),
    [
        ("cpu", ["CPUExecutionProvider"]),
        ("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        ("tensorrt", ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_providers_of_each_target(target: str, providers: list[str]) -> None:
    plan = plan_of(MLP, target)
    assert [name for name, _ in plan.providers] == providers
    for name, options in plan.providers:
        assert set(plan.reasons.get(name, {})) == set(options)
        assert all(isinstance(value, str) for value in options.values())


def test_cuda_options_follow_shapes_and_precision() -> None:
    assert options_of(STATIC, device_id=2) == {
        "device_id": "2",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "prefer_nhwc": "0",
        "use_tf32": "0",
        "enable_cuda_graph": "0",
    }
    dynamic = options_of(DYNAMIC)
    assert dynamic["arena_extend_strategy"] == "kNextPowerOfTwo"
    assert dynamic["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "cudnn_conv_algo_search" not in options_of(MLP)
    assert [options_of(MLP, precision=p)["use_tf32"] for p in (None, "fp32", "tf32", "bf16")] == list("0010")


def test_channels_last_where_it_pays() -> None:
    half = STATIC.replace("float[", "float16[")
    (name, options), *_ = plan_of(half).providers
    assert (name, options["prefer_nhwc"]) == ("CUDAExecutionProvider", "0")
    assert "2 transposes" in plan_of(half).reasons[name]["prefer_nhwc"]
    deep = """g (float16[1, 8, 8, 8] x, float16[8, 8, 3, 3] w) => (float16[1, 8, A, B] y)
        { a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Add(c, c) y = Conv(d, w) }"""
    assert options_of(deep)["prefer_nhwc"] == "1"
    assert "2 transposes" in plan_of(deep).reasons[name]["prefer_nhwc"]
    assert options_of(deep.replace("float16", "float"))["prefer_nhwc"] == "0"


def test_float16_normalizations_are_summed_in_float32() -> None:
    text = "g (T[1, 4, 8] x, T[8] w) => (T[1, 4, 8] y) { y = com.microsoft.SkipLayerNormalization(x, x, w) }"
    assert options_of(text.replace("T[", "float16["))["enable_skip_layer_norm_strict_mode"] == "1"
    assert "enable_skip_layer_norm_strict_mode" not in options_of(text.replace("T[", "float["))


def test_tensorrt_precision_is_what_was_asked_for_or_is_in_the_model() -> None:
    def flags(text: str, precision: str | None) -> tuple[str, str]:
        options = options_of(text, "tensorrt", precision=precision)
        return options["trt_fp16_enable"], options["trt_bf16_enable"]

    half = MLP.replace("float[", "float16[")
    assert flags(MLP, None) == ("False", "False")
    assert flags(MLP, "fp32") == ("False", "False")
    assert flags(MLP, "fp16") == ("True", "False")
    assert flags(MLP, "bf16") == ("False", "True")
    assert flags(half, None) == ("True", "False")
    assert any("TF32" in note for note in plan_of(MLP, "tensorrt").notes)


def test_tensorrt_profiles_name_every_dynamic_input() -> None:
    options = options_of(DYNAMIC, "tensorrt", profiles=PROFILES)
    assert options["trt_profile_min_shapes"] == "x:1x3x8x8,b:1"
    assert options["trt_profile_opt_shapes"] == "x:4x3x8x8,b:4"
    assert options["trt_profile_max_shapes"] == "x:16x3x32x8,b:16"
    assert not any("profile" in name for name in options_of(STATIC, "tensorrt", profiles=PROFILES))
    assert any("--dim" in note for note in plan_of(DYNAMIC, "tensorrt").notes)


def test_an_incomplete_or_reversed_profile_is_an_error() -> None:
    with pytest.raises(LoweringError) as caught:
        plan_of(DYNAMIC, "tensorrt", profiles={"N": (1, 2, 3)})
    assert caught.value.code == "GO204"
    assert "H" in str(caught.value.found)
    with pytest.raises(UsageError) as refused:
        plan_of(DYNAMIC, "tensorrt", profiles={"N": (1, 2, 3), "H": (9, 8, 32)})
    assert refused.value.code == "GO701"


def test_profiles_are_not_passed_on_to_several_engines() -> None:
    text = "g (float[N, 4, 4] x) => (float[N] y) { a = Exp(x) b = Det(a) y = Neg(b) }"
    plan = plan_of(text, "tensorrt", profiles=PROFILES)
    assert plan.summary.engines == 2
    assert not any("profile" in name for name in plan.providers[0][1])
    assert any("2 engines" in note for note in plan.notes)


def test_strict_refuses_and_otherwise_a_note_says_it() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Exp(x) b = Asin(a) y = Exp(b) }"
    with pytest.raises(PolicyError, match="GO501"):
        plan_of(text, strict=True)
    (note,) = [n for n in placement_notes(plan_of(text)) if "fall back" in n]
    assert "Asin (1)" in note
    assert "2 tensors are copied" in note
    assert plan_of(MLP, strict=True).summary.nodes["fallback"] == 0


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("tpu", {}, LoweringError),
        ("tensorrt-rtx", {}, LoweringError),
        ("cuda", {"precision": "int3"}, UsageError),
    ],
)
def test_what_is_not_served_is_refused(target: str, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        plan_of(MLP, target, **options)


# --- against ONNX Runtime itself ---------------------------------------------------------------------------


def all_options() -> dict[str, set[str]]:
    """Every option name that any plan sets, or that tuning chooses, by provider."""
    names: dict[str, set[str]] = {}
    for text in (STATIC, DYNAMIC, MLP):
        for precision in (None, "tf32", "fp16", "bf16"):
            for name, options in plan_of(text, "tensorrt", precision=precision, profiles=PROFILES).providers:
                names.setdefault(name, set()).update(options)
    several = "g (float[N, 4, 4] x) => (float[N] y) { a = Exp(x) b = Det(a) y = Neg(b) }"
    skip = """g (float16[1, 4, 8] x, float16[8] w) => (float16[1, 4, 8] y)
        { y = com.microsoft.SkipLayerNormalization(x, x, w) }"""
    for text in (several, skip):
        for name, options in plan_of(text, "tensorrt").providers:
            names.setdefault(name, set()).update(options)
    for name, (provider, _) in PROVIDER_VALUES.items():
        names[provider].add(name)
    return names


@pytest.mark.parametrize(
    ("provider", "library"),
    [
        ("CUDAExecutionProvider", "libonnxruntime_providers_cuda.so"),
        ("TensorrtExecutionProvider", "libonnxruntime_providers_tensorrt.so"),
    ],
)
def test_the_installed_provider_knows_every_option(provider: str, library: str) -> None:
    """An unknown option makes a provider fail to start, and only on a machine that has the GPU."""
    path = Path(onnxruntime.__file__).parent / "capi" / library
    if not path.is_file():
        pytest.skip(f"this ONNX Runtime was built without {provider}")
    binary = path.read_bytes()
    names = all_options()[provider]
    assert len(names) >= 5
    assert [name for name in sorted(names) if name.encode() not in binary] == []
    assert b"no_such_option" not in binary


def test_the_session_accepts_exactly_what_plans_set() -> None:
    assert set().union(*all_options().values()) == _PLAN_OPTIONS


@pytest.mark.parametrize("target", ["cpu", "cuda", "tensorrt"])
def test_a_plan_runs_after_a_round_trip_through_json(target: str) -> None:
    model = model_from(STATIC)
    plan = json.loads(json.dumps(lower_ort(model, Target.parse(target)).to_json(), allow_nan=False))
    session = OrtSession(onnx_ir.to_proto(model).SerializeToString(), plan)
    x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    np.testing.assert_allclose(session.run({"x": x, "w": w})["y"], np.full((1, 4, 6, 6), 27), rtol=1e-6)
    wanted = [name for name, _ in plan["providers"]]
    assert len(session.fallbacks) + len(session.providers) >= len(wanted)
    if cuda_device_count() == 0:
        assert session.providers == ["CPUExecutionProvider"]


def test_a_plan_is_deterministic_and_may_leave_nodes_out() -> None:
    first, second = (plan_of(DYNAMIC, "tensorrt", profiles=PROFILES).to_json() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert "placement" not in plan_of(MLP).to_json(nodes=False)
    assert plan_of(MLP).to_json()["placement"] == [
        {"node": "Relu_0", "op": "Relu", "provider": "CUDAExecutionProvider", "kind": "accelerator"}
    ]
