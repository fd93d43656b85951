// Owns the tests of numbers, times, durations and cells as text.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, cell } from "../../src/server/console/assets/pure/cell.js";
import {
  ago, compact, count, milliseconds, NONE, plural, rate, shortened, span, time,
} from "../../src/server/console/assets/pure/format.js";

test("numbers have their thousands separated", () => {
  assert.equal(count(0), "0");
  assert.equal(count(1_234_567), "1,234,567");
  assert.equal(count(null), NONE);
  assert.equal(count(undefined), NONE);
  assert.equal(compact(1_500), "1.5K");
  assert.equal(compact(2_000_000), "2M");
});

test("small rates have digits after the point, large ones have none", () => {
  assert.equal(rate(0.12345), "0.123/s");
  assert.equal(rate(99.95), "100/s");
  assert.equal(rate(1_234.5), "1,235/s");
  assert.equal(rate(null), NONE);
});

test("times are those of the data", () => {
  assert.equal(time("2025-01-01T00:00:55.000Z"), "2025-01-01 00:00:55");
  assert.equal(time("2025-01-01T00:00:55.120Z"), "2025-01-01 00:00:55.120");
  assert.equal(time("2025-01-01T10:00:00"), "2025-01-01 10:00:00");
  assert.equal(time(null), NONE);
  assert.equal(time(""), NONE);
});

test("ages are of the server's clock and never negative", () => {
  const now = "2025-01-01T00:01:00.000Z";
  assert.equal(ago("2025-01-01T00:00:59.500Z", now), "now");
  assert.equal(ago("2025-01-01T00:00:18.000Z", now), "42 s ago");
  assert.equal(ago("2025-01-01T01:00:00.000Z", now), "now");
  assert.equal(ago(null, now), NONE);
});

test("durations have their two largest units", () => {
  assert.equal(span(0.5), "0 s");
  assert.equal(span(59.9), "59 s");
  assert.equal(span(60), "1 min");
  assert.equal(span(3_725), "1 h 2 min");
  assert.equal(span(36_000 + 300), "10 h");
  assert.equal(span(86_400 * 2 + 3_600), "2 d 1 h");
  assert.equal(milliseconds(9_999), "9,999 ms");
  assert.equal(milliseconds(65_000), "1 min 5 s");
  assert.equal(milliseconds(undefined), NONE);
});

test("words have the form of their number", () => {
  assert.equal(plural(1, "row"), "1 row");
  assert.equal(plural(0, "row"), "0 rows");
  assert.equal(plural(1_000, "batch", "batches"), "1,000 batches");
});

test("long texts end with an ellipsis and are not longer than they may be", () => {
  assert.equal(shortened("thirteen long", 13), "thirteen long");
  assert.equal(shortened("fourteen longs", 13), "fourteen lon…");
});

test("cells lose nothing", () => {
  assert.equal(cell(null, "BIGINT"), "NULL");
  assert.equal(cell("NULL", "VARCHAR"), "NULL");
  assert.equal(cell("9007199254740993", "BIGINT"), "9007199254740993");
  assert.equal(cell([1, "9007199254740993"], "BIGINT[]"), '[1,"9007199254740993"]');
  assert.equal(cell({ a: null }, "STRUCT(a BIGINT)"), '{"a":null}');
  assert.equal(cell(false, "BOOLEAN"), "false");
  assert.equal(cell("2025-01-01T00:00:00Z", "TIMESTAMP(6) WITH TIME ZONE"), "2025-01-01 00:00:00");
  assert.equal(cell("2025-01-01T00:00:00Z", "VARCHAR"), "2025-01-01T00:00:00Z");
});

test("bytes are text only if they are UTF-8 that can be shown", () => {
  assert.equal(bytes("c3a92064"), "é d");
  assert.equal(bytes("610a0962"), "a\n\tb");
  assert.equal(bytes("00ff"), "00ff");
  assert.equal(bytes("6100"), "6100");
  assert.equal(bytes("611f"), "611f");
  assert.equal(bytes("ff"), "ff");
  assert.equal(bytes(""), "");
  assert.equal(bytes(null), null);
});
