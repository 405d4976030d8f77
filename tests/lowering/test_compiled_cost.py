"""Cycles of a compiled module are laid back on nodes, and the totals add up."""

from __future__ import annotations

import dataclasses
import random

import pytest

from graphopt.ir.io import load
from graphopt.lowering.xla.aot import Compiled
from graphopt.lowering.xla.cost import UNATTRIBUTED, Work, apportion, cycles_by_scope
from graphopt.lowering.xla.report import compiled_report
from graphopt.target import Target, device_of, devices

MODULE = """HloModule jit_main, is_scheduled=true

%fused (param_0: f32[8,128], param_1: f32[128,64]) -> f32[8,64] {
  %param_0 = f32[8,128]{1,0} parameter(0)
  %param_1 = f32[128,64]{1,0} parameter(1)
  %dot.1 = f32[8,64]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(main)/go0_MatMul/dot_general"}
  ROOT %max.1 = f32[8,64]{1,0} maximum(%dot.1, %dot.1), metadata={op_name="jit(main)/go1_Relu/max"}
}

%body (p: (s32[], f32[8,64])) -> (s32[], f32[8,64]) {
  %p = (s32[], f32[8,64]{1,0}) parameter(0)
  %t = f32[8,64]{1,0} tanh(%p), metadata={op_name="jit(main)/go2_Loop/while/body/go3_Tanh/tanh"}, backend_config={"window_config":{"estimated_cycles":"10"}}
  %c = f32[8,64]{1,0} copy(%t), backend_config={"window_config":{"estimated_cycles":"1"}}
  ROOT %r = (s32[], f32[8,64]{1,0}) tuple(%p, %c)
}

%cond (p.1: (s32[], f32[8,64])) -> pred[] {
  ROOT %lt = pred[] constant(true)
}

%cheap (q: f32[8,64]) -> f32[8,64] {
  ROOT %n = f32[8,64]{1,0} negate(%q), metadata={op_name="go5_Neg/neg"}, backend_config={"estimated_cycles":"5"}
}

%dear (q.1: f32[8,64]) -> f32[8,64] {
  ROOT %e = f32[8,64]{1,0} exponential(%q.1), metadata={op_name="go6_Exp/exp"}, backend_config={"estimated_cycles":"50"}
}

ENTRY %main.9 (x: f32[8,128], w: f32[128,64]) -> f32[8,64] {
  %x = f32[8,128]{1,0} parameter(0)
  %w = f32[128,64]{1,0} parameter(1)
  %copy.1 = f32[128,64]{0,1} copy(%w), metadata={op_name="args[0]"}, backend_config={"estimated_cycles":"7"}
  %fusion.1 = f32[8,64]{1,0} fusion(%x, %copy.1), kind=kOutput, calls=%fused, metadata={op_name="jit(main)/go1_Relu/max"}, backend_config={"estimated_cycles":"900"}
  %while.1 = (s32[], f32[8,64]{1,0}) while(%fusion.1), condition=%cond, body=%body, metadata={op_name="jit(main)/go2_Loop/while"}, backend_config={"known_trip_count":{"n":"4"}}
  ROOT %if.1 = f32[8,64]{1,0} conditional(%while.1), branch_computations={%cheap, %dear}, metadata={op_name="jit(main)/go4_If/cond"}
}
"""


def test_cycles_by_scope() -> None:
    cycles = cycles_by_scope(MODULE)
    # The copy of the weights serves the fusion, which is named after go1. In the fusion both
    # instructions count 512: the product's contraction of 128 is one pass of a matrix unit.
    assert cycles[0] == pytest.approx(450)
    assert cycles[1] == pytest.approx(450 + 7)
    assert UNATTRIBUTED not in cycles
    assert cycles[3] == 4 * (10 + 1)  # the copy at the end of the loop's body is of its result
    assert 2 not in cycles
    assert 5 not in cycles
    assert cycles[6] == 50
    assert sum(cycles.values()) == pytest.approx(7 + 900 + 4 * 11 + 50)


def test_text_that_is_no_module_costs_nothing() -> None:
    assert cycles_by_scope("") == {}
    assert cycles_by_scope("}\nENTRY\n%x = nonsense\n") == {}


def test_shares_are_whole_and_add_up() -> None:
    generator = random.Random(0)
    for _ in range(200):
        weights = {
            n: generator.choice([0.0, 1.0, generator.random()]) for n in range(generator.randint(1, 9))
        }
        total = generator.randint(0, 50)
        parts = apportion(total, weights)
        assert sum(parts.values()) == total
        whole = sum(weights.values())
        if whole and total:
            assert all(abs(parts[n] - total * w / whole) < 1 for n, w in weights.items())
    assert apportion(7, {3: 1.0, 5: 1.0}) == {3: 4, 5: 3}


def test_devices_by_what_a_program_has_of_them() -> None:
    """The MXUs' rate follows from clock and size: the table's clocks and its peaks belong together."""
    sides = {"v4": (4, 128), "v5e": (4, 128), "v5p": (8, 128), "v6e": (4, 256), "v7x": (4, 256)}
    for name, (units, side) in sides.items():
        device = devices("tpu")[name].per_program()
        assert device.clock_hz is not None
        assert device.flops["bf16"] == pytest.approx(device.clock_hz * units * side * side * 2, rel=3e-3)
    assert devices("tpu")["v7x"].per_program().hbm_bytes == 96 << 30


V5E = devices("tpu")["v5e"]  # 197e12 operations, 819e9 bytes and 1.5e9 cycles a second


@pytest.mark.parametrize(
    ("cycles", "flops", "moved", "bound"),
    [
        (1500, 98_500_000, 0, "MXU"),  # half of the microsecond
        (1501, 98_400_000, 0, "vector"),
        (1500, 0, 409_500, "HBM"),
        (1501, 0, 409_400, "vector"),
        (1500, 150_000_000, 409_500, "MXU"),
        (1500, 98_500_000, 800_000, "HBM"),
        (0, 0, 1, "HBM"),
        (10, 0, 0, "vector"),
    ],
)
def test_bounds(cycles: int, flops: int, moved: int, bound: str) -> None:
    work = Work(cycles=cycles, hbm_bytes=moved)
    work.occupied_flops["bf16"] = flops
    assert work.bound(V5E) == bound
    without_clock = dataclasses.replace(V5E, clock_hz=None)
    assert work.bound(without_clock) == (
        "vector" if not flops + moved else "MXU" if flops / 197e12 > moved / 819e9 else "HBM"
    )
    assert work.mfu(without_clock) is None


def test_time_is_that_of_the_bytes_where_they_take_longer() -> None:
    work = Work(cycles=1500, flops=98_500_000, hbm_bytes=819_000)
    assert work.seconds(V5E) == pytest.approx(1e-6)
    assert work.mfu(V5E) == pytest.approx(0.5)
    work.hbm_bytes *= 2
    assert work.seconds(V5E) == pytest.approx(2e-6)
    assert work.mfu(V5E) == pytest.approx(0.25)


def test_a_report_of_a_module() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[8, 128] x, float[128, 64] w) => (float[8, 64] y) { m = MatMul(x, w) y = Relu(m) }"""
    model = load(text)
    memory = {"argument": 40960, "output": 4096, "temp": 0, "alias": 0, "generated_code": 100}
    compiled = Compiled(b"", MODULE, memory, 1.0, 2.0, "TPU v5 lite", "libtpu 1", "v5e:2x2", 1.0)
    cost, found = compiled_report(
        compiled, model, Target.parse("tpu:v5e"), {"dims": {"N": 8}, "precision": None}
    )
    assert cost["total_cycles"] == 7 + 900 + 4 * 11 + 50
    rows = cost["nodes"]
    assert [row["op_type"] for row in rows] == ["Relu", "MatMul"]
    assert sum(row["cycles"] for row in rows) + cost["unattributed_cycles"] == cost["total_cycles"]
    assert cost["unattributed_cycles"] == 4 * 11 + 50  # scopes that this model does not have
    assert rows[1]["flops"] == 2 * 8 * 128 * 64
    assert {"cycles", "share", "origins", "flops", "hbm_bytes", "padding", "bound", "mfu"} <= set(rows[0])
    assert found["hbm"] == 40960 + 4096 + 100
    assert found["peak"] == found["hbm"]
    assert 0 < found["peak_made"] <= 4096
    assert {a["kind"] for a in found["alive_at_peak"]} <= {"argument", "output", "temporary"}
    assert cost["bound"] == "vector"
    assert device_of(Target.parse("tpu:v5e")) is V5E
