"""Selection without balancing: every confident image once, whatever the classes."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pseudo_labels.test_select import Row, image_id, run

PREDICTED = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), max_size=30)


def test_confident_images_are_kept_once_each_however_unequal_their_classes() -> None:
    labels = [0] * 7 + [1] * 2 + [3]
    rows = [Row(image_id(number), label, 0.9) for number, label in enumerate(labels)]
    rows += [Row(image_id(50), 1, 0.3), Row(image_id(51), 2, 0.1)]  # not above the threshold
    selected, manifest = run([rows[:5], rows[5:]], balance="none", num_images_per_class=3, max_copies=1)
    assert Counter(row["label"] for row in selected) == {0: 7, 1: 2, 3: 1}
    assert {row["copies"] for row in selected} == {1}
    assert manifest.drops == {"below_threshold": 2}
    assert manifest.facts["capped_classes"] == manifest.facts["empty_classes"] == []


@settings(max_examples=40, deadline=None)
@given(PREDICTED, st.integers(1, 4))
def test_it_is_the_threshold_alone_in_any_split(predicted: list[tuple[int, float]], num_parts: int) -> None:
    rows = [Row(image_id(99), 0, 1.0)]
    rows += [Row(image_id(number), label, confidence) for number, (label, confidence) in enumerate(predicted)]
    selected, _ = run([rows[part::num_parts] for part in range(num_parts)], balance="none", threshold=0.5)
    kept = {row.image_id for row in rows if row.confidence is not None and row.confidence > 0.5}
    assert [row["image_id"] for row in selected] == sorted(kept)
    assert all(row["copies"] == 1 for row in selected)
