"""raise-matmul against ONNX Runtime's Einsum."""

from __future__ import annotations

import pytest
from rewriting import check_declines, check_rewrite

from graphopt.passes.raise_matmul import RaiseMatmul

SIZES = {"b": "B", "c": "C", "q": "Q", "k": "K", "h": "2", "d": "4", "e": "3", "m": "5"}


def model(equation: str, kind: str = "float") -> str:
    left = equation.replace(" ", "").split("->")[0].split(",")
    wanted = equation.split("->")[1] if "->" in equation else "xy"[: 2 if "," in equation else 0]
    inputs = ", ".join(
        f"{kind}[{', '.join(SIZES[label] for label in labels)}] x{i}" for i, labels in enumerate(left)
    )
    operands = ", ".join(f"x{i}" for i in range(len(left)))
    result = ", ".join(f"R{i}" for i in range(len(wanted)))
    return f"""g ({inputs}) => ({kind}[{result}] y) {{ y = Einsum<equation = "{equation}">({operands}) }}"""


@pytest.mark.parametrize(
    ("equation", "after"),
    [
        ("bqk->bkq", "Transpose"),
        ("bqk->q", "ReduceSum"),
        ("bqk->kb", "ReduceSum Transpose"),
        ("bq,bq->bq", "Mul"),
        ("bq,q->bq", "Mul"),
        ("bq,b->bq", "Unsqueeze Mul"),
        ("q,k->qk", "Unsqueeze Mul"),
        ("q,k->kq", "Unsqueeze Mul"),
        ("bq,qk->bk", "MatMul"),
        ("bqc,bck->bqk", "MatMul"),
        ("bqd,bkd->bqk", "Transpose MatMul"),
        ("bqhd,bkhd->bhqk", "Transpose Transpose MatMul"),
        ("bhqk,bkhd->bqhd", "Transpose MatMul Transpose"),
        ("bhqd,de->bhqe", "MatMul"),
        ("bqhd,hdm->bqm", "Reshape Reshape MatMul"),
        ("bqm,mhd->bqhd", "Reshape MatMul Reshape"),
        ("q,q->", "Unsqueeze Unsqueeze MatMul Squeeze"),
        ("bq,bq->b", "Unsqueeze Unsqueeze MatMul Squeeze"),
        ("bqc,c->bq", "Unsqueeze MatMul Squeeze"),
        ("bqck,cd->bqd", "ReduceSum MatMul"),
        ("hd,bqhd->bq", "Reshape Unsqueeze Reshape Unsqueeze MatMul Squeeze"),
        ("bq, qk -> bk", "MatMul"),
        ("qc,ck", "MatMul Transpose"),
    ],
)
def test_equations(equation: str, after: str) -> None:
    source = model(equation)
    sizes = {"B": 2, "C": 3, "Q": 4, "K": 5}
    if "Reshape" in after or equation == "hd,bqhd->bq":
        # How a joined operand is brought into form is free; that it is a product is not.
        rewritten, _ = check_rewrite_any(source, sizes)
        assert "MatMul" in rewritten
        return
    check_rewrite(RaiseMatmul(), source, after, dims=sizes)


def check_rewrite_any(source: str, sizes: dict[str, int]) -> tuple[list[str], object]:
    from checking import check_same_results, model_from, random_feeds
    from rewriting import operators

    original = model_from(source)
    changed = original.clone()
    changes = RaiseMatmul().run(changed)
    assert changes.modified, changes.declined
    check_same_results(original, changed, random_feeds(original, sizes), RaiseMatmul.exactness)
    return operators(changed), changes


def test_integers() -> None:
    check_rewrite(RaiseMatmul(), model("bq,qk->bk", "int32"), "MatMul", dims={"B": 2, "Q": 4, "K": 5})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (model("bqk,bqk->bk").replace("bqk,bqk->bk", "...k,...k->..."), "ellipsis"),
        (model("qk->q").replace("qk->q", "ii->i"), "diagonal"),
        (model("bq,qk->bk").replace("Q, K", "Z, K"), "not known to agree"),
        (model("bq,qk->bk").replace("Q, K", "1, K"), "not known to agree"),
        (model("bq,qk,kc->bc"), "more than two operands"),
        (model("bqc,bcke->bqke"), "unknown size"),
        (model("bqc,qck->bk").replace("C", "3"), "unknown size"),
    ],
)
def test_near_misses(source: str, reason: str) -> None:
    check_declines(RaiseMatmul(), source, reason)
