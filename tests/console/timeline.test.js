// Owns the tests of a job's history on its axis of time, and of the range that is picked there.

import assert from "node:assert/strict";
import { test } from "node:test";

import { lanesOf, said } from "../../src/server/console/assets/pure/lanes.js";
import {
  movedRange, rangeBetween, snapped, stepOf, timeTicks,
} from "../../src/server/console/assets/pure/time-range.js";
import { tablesOf, timeline } from "../../src/server/console/assets/pure/timeline.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const EIGHT = Date.UTC(2025, 8, 4, 8);
const AXIS = { from: EIGHT, to: EIGHT + 4 * HOUR };

/** @param {number} minutes */
function iso(minutes) {
  return new Date(EIGHT + minutes * MINUTE).toISOString();
}

/**
 * A batch: its number, the watermark in minutes, and the offsets behind it.
 *
 * @param {number} number
 * @param {number | null} minutes
 * @param {object} offsets
 */
function batch(number, minutes, offsets) {
  return {
    batch: number, rows_in: number * 10, rows_out: 1, late_rows: number === 3 ? 2 : 0,
    watermark: minutes === null ? null : iso(minutes), offsets: JSON.stringify(offsets), committed_at: iso(0),
  };
}

const BATCHES = [
  batch(4, 30, { visits: { 0: 40 }, other: { 0: 4 } }), batch(3, 20, { visits: { 0: 30 }, other: { 0: 3 } }),
  batch(2, 10, { visits: { 0: 20 }, other: { 0: 2 } }), batch(1, null, { visits: { 0: 10 }, other: { 0: 1 } }),
];

/**
 * @param {number} from
 * @param {number} to
 * @param {string | null} reason null for a part that is archived
 */
function range(from, to, reason) {
  return {
    partition: 0, from_offset: from, to_offset: to, kind: reason === null ? "covered" : "hole", reason, in_topic: true,
  };
}

const NONE = { batches: [], late: [], runs: [], coverage: new Map() };

test("a batch stands between the watermark before it and its own", () => {
  const { batches, watermark, axis } = timeline({ ...NONE, batches: BATCHES });
  assert.deepEqual(batches.map(({ batch: number, from, to, rows, late }) =>
    [number, (from - EIGHT) / MINUTE, (to - EIGHT) / MINUTE, rows, late]),
  [[2, 10, 10, 20, 0], [3, 10, 20, 30, 2], [4, 20, 30, 40, 0]]);
  assert.equal(watermark, EIGHT + 30 * MINUTE);
  assert.deepEqual(axis, { from: EIGHT + 10 * MINUTE, to: EIGHT + 30 * MINUTE });
  assert.deepEqual(tablesOf(BATCHES), ["visits", "other"]);
});

test("a watermark that goes back, as after a rewind, gives no batch that ends before it begins", () => {
  const { batches } = timeline({ ...NONE, batches: [batch(1, 30, {}), batch(2, 10, {})] });
  assert.ok(batches.every(({ from, to }) => from <= to));
});

test("a job without watermarks has no axis", () => {
  assert.deepEqual(timeline({ ...NONE, batches: [batch(1, null, {})] }).axis, null);
  assert.deepEqual(timeline(NONE), { axis: null, watermark: null, batches: [], late: [], runs: [], coverage: [] });
  const one = timeline({ ...NONE, batches: [batch(1, 5, {})] }).axis;
  assert.ok(one && one.to - one.from >= MINUTE, "an axis has a length");
  assert.deepEqual(tablesOf([{ offsets: "{" }, { offsets: null }]), []);
});

test("late rows and runs stand where their times are", () => {
  const late = [
    { window_start: iso(0), window_end: iso(10), late_rows: 5 }, { window_start: null, window_end: null, late_rows: 1 },
  ];
  const run = {
    run_id: "r", job: "j", state: "COMPLETE", reason: null, asked: `event time ${iso(5)} to ${iso(50)}`, reads: null,
    emits: null, emit: null, chunks_compared: 1, same: null, changed: null, new: null, gone: null, unknown: null,
    chunks: 1, rows_in: 1, rows_out: 1, position: null, done: 1, sql_version: null, created_at: null, since: null,
    owner: null, heartbeat_at: null,
  };
  const found = timeline({ ...NONE, late, runs: [run, { ...run, asked: "7 rows of visits" }] });
  assert.deepEqual(found.late, [{ from: EIGHT, to: EIGHT + 10 * MINUTE, rows: 5 }]);
  assert.deepEqual(found.runs, [{ from: EIGHT + 5 * MINUTE, to: EIGHT + 50 * MINUTE, run_id: "r", state: "COMPLETE" }]);
  assert.deepEqual(found.axis, { from: EIGHT, to: EIGHT + 50 * MINUTE });
});

test("the archive has the offsets of a batch, a part of them, or none", () => {
  const of = (/** @type {ReturnType<typeof range>[]} */ rows) =>
    timeline({ ...NONE, batches: BATCHES, coverage: new Map([["visits", rows]]) }).coverage
      .map(({ from, to, state, reason }) => [(from - EIGHT) / MINUTE, (to - EIGHT) / MINUTE, state, reason]);
  assert.deepEqual(of([range(0, 100, null)]), [[10, 30, "archived", ""]], "neighbours are one");
  assert.deepEqual(of([range(0, 25, null), range(25, 99, "not archived yet")]),
    [[10, 20, "partly", "not archived yet"], [20, 30, "missing", "not archived yet"]]);
  assert.deepEqual(of([range(20, 30, "unknown"), range(30, 99, null)]),
    [[10, 20, "missing", "unknown"], [20, 30, "archived", ""]]);
  assert.deepEqual(of([]), [[10, 30, "missing", ""]]);
  assert.deepEqual(timeline({ ...NONE, batches: BATCHES }).coverage, [], "no archive is known");
});

test("lanes say what stands in them", () => {
  const late = [{ window_start: iso(0), window_end: iso(10), late_rows: 5 }];
  const lanes = lanesOf(timeline({ ...NONE, batches: BATCHES, late }));
  assert.deepEqual(lanes.map(({ name }) => name), ["Batches", "Late rows"]);
  assert.ok(lanes.every(({ spans }) => spans.every(({ part }) => part >= 0 && part <= 1)));
  assert.equal(lanes[0].spans[1].kind, "batch late");
  assert.equal(lanes[0].spans[1].title, "batch 3, 30 rows, 2 late, watermark 2025-09-04 08:20:00");
  assert.equal(lanes[1].spans[0].title, "5 late rows of 2025-09-04 08:00:00 to 2025-09-04 08:10:00");
  assert.equal(said(EIGHT), "2025-09-04 08:00:00");
});

test("the grid has distances that people count in", () => {
  assert.equal(stepOf(AXIS), MINUTE);
  assert.equal(stepOf({ from: 0, to: 1_000 }), 1_000);
  assert.equal(stepOf({ from: 0, to: 1e15 }), 365 * 24 * HOUR, "the longest");
  assert.equal(snapped(EIGHT + 29_000, AXIS), EIGHT);
  assert.equal(snapped(EIGHT + 31_000, AXIS), EIGHT + MINUTE);
});

test("a range lies between two places, and is never empty", () => {
  const [one, other] = [EIGHT + HOUR, EIGHT + 2 * HOUR + 10_000];
  const expected = { from: EIGHT + HOUR, to: EIGHT + 2 * HOUR };
  assert.deepEqual(rangeBetween(one, other, AXIS), expected);
  assert.deepEqual(rangeBetween(other, one, AXIS), expected);
  assert.deepEqual(rangeBetween(one, one, AXIS), { from: one, to: one + MINUTE });
});

test("keys move one end, and not beyond the other", () => {
  const start = { from: EIGHT + HOUR, to: EIGHT + 2 * HOUR };
  const moved = (/** @type {"from" | "to"} */ end, /** @type {string} */ key, isFar = false) =>
    movedRange(start, end, { key, isFar }, AXIS);
  assert.deepEqual(moved("from", "ArrowRight"), { from: EIGHT + HOUR + MINUTE, to: start.to });
  assert.deepEqual(moved("from", "ArrowLeft", true), { from: EIGHT + HOUR - 10 * MINUTE, to: start.to });
  assert.deepEqual(moved("to", "PageUp"), { from: start.from, to: start.to + 10 * MINUTE });
  assert.deepEqual(moved("from", "Home"), { from: AXIS.from, to: start.to });
  assert.deepEqual(moved("from", "End"), { from: start.to - MINUTE, to: start.to });
  assert.deepEqual(moved("to", "Home"), { from: start.from, to: start.from + MINUTE });
  assert.deepEqual(moved("to", "End"), { from: start.from, to: AXIS.to });
  assert.equal(moved("to", "Enter"), null);
  assert.equal(moved("to", "toString"), null);
});

test("labels stand at round times, and each day is named once", () => {
  assert.deepEqual(timeTicks(AXIS, 5).map(({ text }) => text),
    ["2025-09-04 08:00", "09:00", "10:00", "11:00", "12:00"]);
  const night = timeTicks({ from: EIGHT + 15 * HOUR, to: EIGHT + 17 * HOUR }, 5).map(({ text }) => text);
  assert.deepEqual(night, ["2025-09-04 23:00", "23:30", "2025-09-05 00:00", "00:30", "01:00"]);
  assert.deepEqual(timeTicks({ from: EIGHT, to: EIGHT + 10_000 }, 5).map(({ text }) => text),
    ["2025-09-04 08:00:00", "08:00:05", "08:00:10"]);
});
