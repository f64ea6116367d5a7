"""Prints the rows that a query on standard input returns: each as an array of texts, as JSON."""

import json
import sys

import duckdb

for row in duckdb.execute(sys.stdin.read()).fetchall():
    print(json.dumps([None if value is None else str(value) for value in row]))
