// Owns the tests of how jobs are shown: their state, rates, batches, rows set aside, and rewinds.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  describeBatch, newestBatches, setAsideRows, totalOf,
} from "../../src/server/console/assets/pure/batches.js";
import { advice, canResume, isAtWork, lag } from "../../src/server/console/assets/pure/job-state.js";
import { Rates } from "../../src/server/console/assets/pure/rates.js";
import { consequence } from "../../src/server/console/assets/pure/rewind.js";

/**
 * A job that has read a number of rows.
 *
 * @param {number} rows
 * @param {string} state
 * @param {string} name
 */
function job(rows, state = "RUNNING", name = "copy") {
  const here = { lag: 7, rows_in: rows, watermark: null, state_rows: null };
  return { job: name, state, reason: null, batch: 1, generation: 0, committed_at: null, here };
}

/** @param {number} number */
function batch(number) {
  return {
    batch: number, generation: 0, rows_in: 1_000 * number, rows_out: 1, late_rows: number, dead_letters: 0,
    watermark: null, committed_at: "2025-01-01T00:00:00Z", milliseconds: 12,
  };
}

test("each state can be paused or resumed, and says what helps", () => {
  const states = ["RUNNING", "WAITING", "ACTIVE", "PAUSED", "FAILED"];
  assert.deepEqual(states.filter(canResume), ["PAUSED", "FAILED"]);
  assert.deepEqual(states.filter(isAtWork), ["RUNNING", "WAITING"]);
  assert.deepEqual(states.filter((state) => advice(state) === ""), ["RUNNING"]);
  assert.equal(advice("UNHEARD OF"), "");
});

test("only a job at work is behind", () => {
  assert.equal(lag(job(0)), 7);
  assert.equal(lag(job(0, "PAUSED")), null);
  assert.equal(lag({ ...job(0), here: null }), null);
});

test("a rate needs two samples", () => {
  const rates = new Rates();
  assert.equal(rates.sample(job(100), 0), null);
  assert.equal(rates.sample(job(300), 2_000), 100);
  assert.equal(rates.sample(job(300), 2_000), 100, "the same answer once more");
});

test("a rate is that of the last ten seconds", () => {
  const rates = new Rates();
  rates.sample(job(0), 0);
  for (let at = 1; at <= 20; at++) rates.sample(job(at <= 10 ? at * 1_000 : 10_000), at * 1_000);
  assert.equal(rates.sample(job(10_000), 21_000), 0);
});

test("a job that was started again is measured again", () => {
  const rates = new Rates();
  rates.sample(job(500), 0);
  assert.equal(rates.sample(job(10), 1_000), null);
  assert.equal(rates.sample(job(30), 2_000), 20);
});

test("jobs that stand or are gone are forgotten", () => {
  const rates = new Rates();
  rates.sample(job(0), 0);
  assert.equal(rates.sample(job(10, "PAUSED"), 1_000), null);
  assert.equal(rates.sample(job(20), 2_000), null);
  rates.keepOnly(new Set(["other"]));
  assert.equal(rates.sample(job(30), 3_000), null);
  rates.keepOnly(new Set(["copy"]));
  assert.equal(rates.sample(job(40), 4_000), 10);
});

test("a rewind says which batches are abandoned", () => {
  assert.equal(consequence(null, 1_200), "Give a number from 0, the beginning, to 1,200.");
  assert.equal(consequence(4, 4), "No batch is abandoned.");
  assert.equal(consequence(3, 4), "Batch 4 is abandoned, and its input is read again.");
  assert.equal(consequence(1, 4), "Batches 2 to 4 are abandoned, and their input is read again.");
  assert.equal(consequence(0, 4), "Batches 1 to 4 are abandoned, and their input is read again, from its beginning.");
});

test("batches are told in one line, and their rows are summed up", () => {
  assert.equal(describeBatch(batch(2)), "batch 2, 2025-01-01 00:00:00: 2,000 rows read, 1 written, 12 ms");
  assert.equal(totalOf([], "late_rows"), "0 in 0 batches");
  assert.equal(totalOf([batch(2)], "late_rows"), "2 in 1 batch");
  assert.equal(totalOf([batch(2), batch(3)], "late_rows"), "5 in 2 batches");
});

test("the newest batches come first, with the columns that are known", () => {
  const columns = ["milliseconds", "offsets", "batch"].map((name) => ({ name, type: "BIGINT", is_number: true }));
  const rows = Array.from({ length: 12 }, (_, at) => [at * 10, "{}", at]);
  const found = newestBatches({ columns, rows });
  assert.deepEqual(found.columns.map((column) => column.name), ["batch", "milliseconds"]);
  assert.equal(found.rows.length, 10);
  assert.deepEqual(found.rows[0], [11, 110]);
  assert.deepEqual(rows[0], [0, "{}", 0], "the result itself stays as it is");
});

test("rows set aside are counted by their last column, which is not shown", () => {
  const columns = ["value", "total"].map((name) => ({ name, type: "VARCHAR", is_number: false }));
  const rows = [["a", 70], ["b", 70]];
  const found = setAsideRows({ columns, rows }, "late row");
  assert.equal(found.summary, "The newest 2 of 70 late rows.");
  assert.deepEqual(found.shown, { columns: [columns[0]], rows: [["a"], ["b"]] });
  assert.equal(setAsideRows({ columns, rows: [["a", 1]] }, "late row").summary, "1 late row.");
});
