"""Cycles of a compiled module are laid back on nodes, and the totals add up."""

from __future__ import annotations

import pytest

from graphopt.lowering.xla.cost import UNATTRIBUTED, cycles_by_scope

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
