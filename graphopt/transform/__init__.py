"""Passes, rules, the drivers that apply them, and the report of what they did."""

from __future__ import annotations

from graphopt.transform.base import Changes, Exactness, Pass
from graphopt.transform.calibration import CalibratedPass, Observer, Ranges, ValueRange
from graphopt.transform.pipeline import Dump, Instrument, PassRecord, Pipeline, Report
from graphopt.transform.rule import NoMatch, Rewriter, Rule, RulePass, Watch, rule, watching

__all__ = [
    "CalibratedPass",
    "Changes",
    "Dump",
    "Exactness",
    "Instrument",
    "NoMatch",
    "Observer",
    "Pass",
    "PassRecord",
    "Pipeline",
    "Ranges",
    "Report",
    "Rewriter",
    "Rule",
    "RulePass",
    "ValueRange",
    "Watch",
    "rule",
    "watching",
]
