"""Selection of boxes. How many are selected is in the data, so that the data must be known."""

from __future__ import annotations

import numpy as np

from graphopt.lowering.xla.emit import Context
from graphopt.lowering.xla.ops import lowers

COMPARISONS = 1 << 28
"""How many pairs of boxes are compared at most."""


@lowers(
    "NonMaxSuppression",
    since=(11,),
    static=("boxes", "scores", "max_output_boxes_per_class", "iou_threshold", "score_threshold"),
)
def non_max_suppression(
    ctx: Context,
    boxes: np.ndarray,
    scores: np.ndarray,
    max_output_boxes_per_class: np.ndarray | None,
    iou_threshold: np.ndarray | None,
    score_threshold: np.ndarray | None,
    *,
    center_point_box: int = 0,
) -> np.ndarray:
    """The indices [batch, class, box] of boxes that no better one overlaps: int64[n, 3].

    For each batch and class by falling score, ties by rising index; a box is dropped where its intersection
    over union with one that was selected exceeds iou_threshold. Without score_threshold all boxes count;
    without max_output_boxes_per_class, whose default is 0, none does.

    Shapes: ``boxes: [batches, boxes, 4]``, ``scores: [batches, classes, boxes]``.
    Spec: https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html
    """
    most = max(int(_scalar(max_output_boxes_per_class, 0)), 0)
    count = boxes.shape[1]
    if scores.shape[0] * scores.shape[1] * min(most, count) * count > COMPARISONS:
        raise ctx.unsupported("too many boxes to compare", found=f"{scores.shape}, {most} per class")
    overlap = np.float32(_scalar(iou_threshold, 0))
    threshold = (
        None if score_threshold is None or not score_threshold.size else score_threshold.reshape(-1)[0]
    )
    found = [
        (batch, kind, box)
        for batch in range(scores.shape[0])
        for kind in range(scores.shape[1])
        for box in _select(
            _corners(boxes[batch], center_point_box), scores[batch, kind], most, overlap, threshold
        )
    ]
    return np.array(found, np.int64).reshape(-1, 3)


def _scalar(value: np.ndarray | None, default: float) -> float:
    return default if value is None or not value.size else float(value.reshape(-1)[0])


def _corners(boxes: np.ndarray, center_point_box: int) -> np.ndarray:
    """Boxes as rows of lowest and highest coordinates: [4, boxes]."""
    if center_point_box:
        x, y, width, height = boxes.T
        return np.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    y1, x1, y2, x2 = boxes.T
    return np.stack((np.minimum(x1, x2), np.minimum(y1, y2), np.maximum(x1, x2), np.maximum(y1, y2)))


def _select(
    corners: np.ndarray, scores: np.ndarray, most: int, overlap: np.float32, threshold: np.floating | None
) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        order = order[scores[order] > threshold]
    selected: list[int] = []
    while order.size and len(selected) < most:
        best, order = int(order[0]), order[1:]
        selected.append(best)
        order = order[~(_intersection_over_union(corners[:, order], corners[:, best]) > overlap)]
    return selected


def _intersection_over_union(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """For each of `boxes`; -inf where one of the two, or what they share, has no area."""
    left, right = np.maximum(boxes[0], box[0]), np.minimum(boxes[2], box[2])
    low, high = np.maximum(boxes[1], box[1]), np.minimum(boxes[3], box[3])
    shared = (right - left) * (high - low)
    areas = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1]), (box[2] - box[0]) * (box[3] - box[1])
    union = areas[0] + areas[1] - shared
    apart = (right <= left) | (high <= low) | (shared <= 0) | (areas[0] <= 0) | (areas[1] <= 0) | (union <= 0)
    with np.errstate(all="ignore"):
        return np.where(apart, np.float32(-np.inf), shared / union)
