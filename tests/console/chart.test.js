// Owns the tests of the summary of a result, and of the arithmetic of its chart.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  axisLabel, describePoint, placedPoints, pointsOf, toNumber,
} from "../../src/server/console/assets/pure/points.js";
import { describeRows, firstChart, isStatus } from "../../src/server/console/assets/pure/result.js";
import { linear, lineBounds, spread, ticks } from "../../src/server/console/assets/pure/scale.js";

const NUMBER = { name: "n", type: "BIGINT", is_number: true };
const TEXT = { name: "note", type: "VARCHAR", is_number: false };
const TIME = { name: "t", type: "TIMESTAMP(6)", is_number: false };
const DAY = { name: "d", type: "DATE", is_number: false };
const ANSWER = { columns: [NUMBER], rows: [[1]], is_cut: false, rows_written: null, has_changed: false, warnings: [] };

test("an axis has few round numbers within its ends", () => {
  assert.deepEqual(ticks(0, 100), [0, 50, 100]);
  assert.deepEqual(ticks(0, 8), [0, 2, 4, 6, 8]);
  assert.deepEqual(ticks(-10, 10), [-10, -5, 0, 5, 10]);
  assert.ok(!ticks(-1, 1).some((tick) => Object.is(tick, -0)), "zero has no sign");
  for (const [low, high] of [[0, 1], [0, 0], [5, 5], [-3, -3], [1e-9, 3e-9], [0, 7e12], [-0.3, 12_345.6]]) {
    const found = ticks(low, high);
    assert.ok(found.length <= 10, `${low} to ${high}: ${found}`);
    assert.ok(found.every(Number.isFinite), `${low} to ${high}: ${found}`);
  }
});

test("values are placed between the ends, and on the first if there is one value only", () => {
  const scale = linear(10, 20, 100, 0);
  assert.deepEqual([10, 15, 20].map(scale), [100, 50, 0]);
  assert.equal(linear(5, 5, 100, 0)(5), 100);
});

test("the axis of a line has zero if that is near, and room around a single value", () => {
  assert.deepEqual(lineBounds([40, 100]), [0, 100]);
  assert.deepEqual(lineBounds([60, 100]), [60, 100]);
  assert.deepEqual(lineBounds([-5, 5]), [-5, 5]);
  assert.deepEqual(lineBounds([10]), [5, 15]);
  assert.deepEqual(lineBounds([0, 0]), [-1, 1]);
});

test("labels are spread over all points", () => {
  const items = Array.from({ length: 11 }, (_, at) => at);
  assert.deepEqual(spread(items, 3), [0, 5, 10]);
  assert.deepEqual(spread(items, 100), items);
  assert.deepEqual(spread(["only"], 2), ["only"]);
});

test("text is a number only if it is one", () => {
  assert.equal(toNumber(1.5), 1.5);
  assert.equal(toNumber("12.345"), 12.345);
  assert.equal(toNumber("-Infinity"), -Infinity);
  for (const value of ["", "x", null, true, [1]]) assert.ok(Number.isNaN(toNumber(value)), String(value));
});

test("rows without a number have no point", () => {
  const rows = [["a", 1], ["b", null], ["c", "NaN"], ["d", "2.5"], ["e", "Infinity"]];
  const points = pointsOf({ columns: [TEXT, NUMBER], rows }, 0, 1);
  assert.deepEqual(points, [{ x: "a", y: 1 }, { x: "d", y: 2.5 }]);
});

test("points are in the order of numbers and times, else in that of the rows", () => {
  const order = (/** @type {(string | number | null)[]} */ xs, /** @type {typeof NUMBER} */ column) =>
    placedPoints(xs.map((x, y) => ({ x, y })), column).map((point) => point.y);
  assert.deepEqual(order([30, "4", 100], NUMBER), [1, 0, 2]);
  assert.deepEqual(order(["2025-01-02T00:00:00", "2025-01-01T00:00:00"], TIME), [1, 0]);
  assert.deepEqual(order(["2025-01-02", "2025-01-01"], DAY), [1, 0]);
  assert.deepEqual(order(["b", "a"], TEXT), [0, 1]);
  assert.deepEqual(order([2, null, 1], NUMBER), [0, 1, 2]);
});

test("times of one day are labelled without it", () => {
  const times = ["2025-01-01T08:00:00Z", "2025-01-01T09:30:00Z", "2025-01-02T00:00:00Z"];
  const [one, two, next] = times.map((x) => ({ x, y: 1 }));
  assert.deepEqual([one, two].map(axisLabel([one, two], TIME)), ["08:00:00", "09:30:00"]);
  assert.equal(axisLabel([one, next], TIME)(one), "2025-01-01 08:00:00");
  assert.equal(axisLabel([{ x: "2025-01-01", y: 1 }], DAY)({ x: "2025-01-01", y: 1 }), "2025-01-01");
  assert.equal(describePoint(one, TIME), "2025-01-01 08:00:00: 1");
});

test("a chart begins with the first other column of numbers", () => {
  assert.equal(firstChart([TEXT, TIME]), null);
  assert.deepEqual(firstChart([TEXT, NUMBER]), { x: 0, y: 1, isLine: false });
  assert.deepEqual(firstChart([NUMBER, NUMBER]), { x: 0, y: 1, isLine: true });
  assert.deepEqual(firstChart([TIME, TEXT, NUMBER]), { x: 0, y: 2, isLine: true });
  assert.deepEqual(firstChart([DAY, NUMBER]), { x: 0, y: 1, isLine: true });
  assert.deepEqual(firstChart([NUMBER, TEXT]), { x: 1, y: 0, isLine: false });
  assert.deepEqual(firstChart([NUMBER]), { x: 0, y: 0, isLine: true });
});

test("a result says how many rows there are", () => {
  assert.equal(describeRows(ANSWER), "1 row");
  const cut = { ...ANSWER, rows: Array(1_000).fill([1]), is_cut: true };
  assert.equal(describeRows(cut), "the first 1,000 rows, there are more");
  assert.equal(describeRows({ ...ANSWER, rows: [], rows_written: 1 }), "1 row written");
});

test("only a change answers with its status", () => {
  const status = { ...TEXT, name: "status" };
  assert.ok(isStatus({ ...ANSWER, columns: [status], has_changed: true }));
  assert.ok(!isStatus({ ...ANSWER, columns: [status] }), "a query may have a column of that name");
  assert.ok(!isStatus({ ...ANSWER, columns: [status, NUMBER], has_changed: true }));
  assert.ok(!isStatus({ ...ANSWER, has_changed: true }));
});
