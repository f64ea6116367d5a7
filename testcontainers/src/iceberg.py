"""Prints the rows of the Iceberg table whose directory or metadata is named on standard input.

Each is a JSON object. Numbers, times and decimals are texts of exact numbers (days, microseconds),
floating numbers their bits and bytes their values as hexadecimal digits, structures are arrays.
"""

import json
import sys

import pyarrow as pa
from pyiceberg.table import StaticTable

INTEGERS = {32: pa.int32(), 64: pa.int64()}


def values(array):
    of = array.type
    if isinstance(array, pa.ExtensionArray):
        return values(array.storage)
    if pa.types.is_boolean(of):
        return array.to_pylist()
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        inner, ends = values(array.values), array.offsets.to_pylist()
        return [
            inner[ends[at] : ends[at + 1]] if there else None
            for at, there in enumerate(array.is_valid().to_pylist())
        ]
    if pa.types.is_struct(of):
        inner = [values(array.field(at)) for at in range(of.num_fields)]
        return [
            [member[at] for member in inner] if there else None
            for at, there in enumerate(array.is_valid().to_pylist())
        ]
    if pa.types.is_floating(of):
        bits = array.view(INTEGERS[of.bit_width])
        mask, digits = (1 << of.bit_width) - 1, of.bit_width // 4
        return [None if one is None else f"{one & mask:0{digits}x}" for one in bits.to_pylist()]
    if pa.types.is_temporal(of):
        return values(array.cast(INTEGERS[of.bit_width]))
    if pa.types.is_decimal(of):
        return [None if one is None else format(one, "f") for one in array.to_pylist()]
    convert = str
    if pa.types.is_binary(of) or pa.types.is_large_binary(of) or pa.types.is_fixed_size_binary(of):
        convert = bytes.hex
    elif not pa.types.is_integer(of):
        assert pa.types.is_string(of) or pa.types.is_large_string(of), of
    return [None if one is None else convert(one) for one in array.to_pylist()]


table = StaticTable.from_metadata(sys.stdin.read()).scan().to_arrow()
for batch in table.to_batches():
    columns = [values(column) for column in batch.columns]
    for row in zip(*columns):
        print(json.dumps(dict(zip(batch.schema.names, row))))
