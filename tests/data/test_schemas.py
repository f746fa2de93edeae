"""Parts are written one way, and read back as what they were or not at all."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisystudent_core.data.schemas import (
    EVALUATIONS,
    EXCLUSIONS,
    HISTORY,
    IMAGES,
    PREDICTIONS,
    SELECTION,
    distributions,
    from_bytes,
    to_bytes,
)
from noisystudent_core.errors import SchemaError

SCHEMAS = [IMAGES, PREDICTIONS, EXCLUSIONS, SELECTION, EVALUATIONS, HISTORY, distributions(3)]
ROWS = pa.table({"image_id": [bytes(16), b"1" * 16], "reason": ["evaluation_image", None]}, schema=EXCLUSIONS)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: ",".join(schema.names))
def test_schema_survives_a_round_trip(schema: pa.Schema) -> None:
    again = from_bytes(to_bytes(schema.empty_table(), schema), schema, "part")
    assert again.schema.equals(schema)


def test_rows_survive_a_round_trip() -> None:
    table = pa.table({"image_id": [bytes(16)], "probabilities": [[0.25, 0.5, 0.25]]})
    table = pa.table(
        {name: table[name] if name in table.column_names else pa.nulls(1) for name in distributions(3).names}
    )
    again = from_bytes(to_bytes(table, distributions(3)), distributions(3), "part")
    assert again["probabilities"].to_pylist() == [[0.25, 0.5, 0.25]] and again["label"].to_pylist() == [None]


def test_equal_tables_give_equal_bytes() -> None:
    pieces = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)]).replace_schema_metadata({"made": "today"})
    assert to_bytes(pieces.combine_chunks(), EXCLUSIONS) == to_bytes(ROWS, EXCLUSIONS)


def test_columns_can_be_read_alone() -> None:
    assert from_bytes(to_bytes(ROWS, EXCLUSIONS), EXCLUSIONS, "part", ["reason"]).column_names == ["reason"]


@pytest.mark.parametrize("columns", [None, ["image_id", "reason"]])
def test_missing_column_is_named(columns: list[str] | None) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(ROWS.drop_columns("reason"), sink)
    with pytest.raises(SchemaError, match="part 7: no column 'reason'; it has image_id"):
        from_bytes(sink.getvalue().to_pybytes(), EXCLUSIONS, "part 7", columns)


def test_column_of_another_type_is_named() -> None:
    schema = EXCLUSIONS.set(0, pa.field("image_id", pa.string()))
    data = to_bytes(pa.table({"image_id": ["1"], "reason": ["2"]}), schema)
    with pytest.raises(SchemaError, match=r"part: column 'image_id' is string; must be fixed_size_binary\[16\]"):
        from_bytes(data, EXCLUSIONS, "part")


@pytest.mark.parametrize("data", [b"", b"words", bytes(100)])
def test_what_is_no_parquet_is_named(data: bytes) -> None:
    with pytest.raises(SchemaError, match=r"part 7: not a Parquet file .*; delete it to have it made again"):
        from_bytes(data, EXCLUSIONS, "part 7")
