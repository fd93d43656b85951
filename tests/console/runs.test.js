// Owns the tests of reprocessing runs: their states, their statements, and their changes side by side.

import assert from "node:assert/strict";
import { test } from "node:test";

import { changesOf, keyText, valueText } from "../../src/server/console/assets/pure/changes.js";
import { fieldText, instant, instants } from "../../src/server/console/assets/pure/instants.js";
import {
  EMPTY_ORDER, hasRun, lateRowsOf, reprocessStatement,
} from "../../src/server/console/assets/pure/reprocess.js";
import {
  canAbort, canApply, KINDS, newRunId, progress, runAdvice, runTimes,
} from "../../src/server/console/assets/pure/runs.js";

const STATES = ["PLANNING", "PLANNED", "RUNNING", "COMPLETE", "ABORTED", "FAILED"];
const RANGE = "2025-09-04T10:00:00Z to 2025-09-04T11:00:00Z";

/** @param {Partial<import("../../src/server/console/assets/pure/wire.js").Run>} given */
function run(given) {
  return {
    run_id: "r", job: "j", state: "RUNNING", reason: null, asked: `event time ${RANGE}`, reads: `event time ${RANGE}`,
    emits: `rows of ${RANGE}`, emit: "CHANGED", chunks_compared: 1, same: 1, changed: 2, new: 3, gone: 4, unknown: 5,
    chunks: 0, rows_in: 0, rows_out: 0, position: null, done: 1, sql_version: "0123", created_at: null, since: null,
    owner: null, heartbeat_at: null, ...given,
  };
}

const HOUR = 3_600_000;
const TEN = Date.UTC(2025, 8, 4, 10);

test("instants are UTC, also without a zone", () => {
  assert.equal(instant("2025-09-04T10:00:00Z"), TEN);
  assert.equal(instant("2025-09-04T10:00:00"), TEN);
  assert.equal(instant("2025-09-04T12:00:00+02:00"), TEN);
  for (const text of ["", "soon", null, 7, "2025-13-40T00:00:00"]) assert.equal(instant(text), null, String(text));
  assert.deepEqual(instants(`windows of ${RANGE}, and by the last`), [TEN, TEN + HOUR]);
  assert.deepEqual(instants("rows at offsets visits 0: 23 to 99"), []);
  assert.equal(fieldText(TEN), "2025-09-04T10:00:00");
  assert.equal(fieldText(TEN + 5), "2025-09-04T10:00:00.005");
  assert.equal(instant(fieldText(TEN + 5)), TEN + 5);
});

test("a state says what can be done", () => {
  assert.deepEqual(STATES.filter(canApply), ["PLANNED", "RUNNING", "FAILED"]);
  assert.deepEqual(STATES.filter(canAbort), ["PLANNING", "PLANNED", "RUNNING", "FAILED"]);
  for (const state of STATES) assert.notEqual(runAdvice(state), "", state);
  assert.equal(runAdvice("toString"), "", "no state");
  assert.deepEqual(KINDS.map(([kind]) => kind), ["changed", "new", "gone", "unknown", "same"]);
});

test("the progress is that of the plan, then that of the sink", () => {
  assert.equal(progress(run({ state: "PLANNING", done: 0.25 })), 0.25);
  assert.equal(progress(run({ state: "PLANNED", done: 1 })), 1);
  assert.equal(progress(run({ state: "RUNNING", chunks: 0, done: 1 })), 0, "all is compared, and nothing is written");
  assert.equal(progress(run({ state: "RUNNING", chunks: 1, done: 0.1 })), 0.1);
  assert.equal(progress(run({ state: "COMPLETE", done: 0.999 })), 1);
  assert.equal(progress(run({ state: "FAILED", chunks: null, done: null })), null, "it cannot be read");
});

test("a run has the times that it was asked for, else those that it emits", () => {
  assert.deepEqual(runTimes(run({ emits: "nothing" })), { from: TEN, to: TEN + HOUR });
  assert.deepEqual(runTimes(run({ asked: "7 rows of visits" })), { from: TEN, to: TEN + HOUR });
  assert.equal(runTimes(run({ asked: "offsets visits 0: 1 to 2", emits: "rows at offsets visits 0: 1 to 2" })), null);
  assert.equal(runTimes(run({ asked: null, emits: null })), null);
});

test("an id is made of the job and the time", () => {
  assert.equal(newRunId("copy", "2026-11-30T17:20:58.123Z"), "copy-20261130T172058");
  assert.match(newRunId("<b>by</b> 10 s/é", "2026-11-30T17:20:58Z"), /^[A-Za-z0-9_.:-]{1,80}$/);
  assert.ok(newRunId("j".repeat(300), "2026-11-30T17:20:58Z").length <= 80);
});

test("a statement has the entries of the form", () => {
  const order = { ...EMPTY_ORDER, job: "copy", from: "2025-09-04T10:00:00", to: " 2025-09-04T11:00:00" };
  assert.equal(reprocessStatement(order, "PLAN").sql,
    'PLAN REPROCESS JOB "copy"\nFROM \'2025-09-04T10:00:00\' TO \'2025-09-04T11:00:00\'');
  assert.match(reprocessStatement(order, "EXPLAIN").sql ?? "", /^EXPLAIN REPROCESS JOB "copy"\n/);
  assert.match(reprocessStatement(order, "").sql ?? "", /^REPROCESS JOB "copy"\n/);
  const all = {
    ...order, job: 'a"b', offsetsFrom: '{"visits":{"0":23}}', offsetsTo: '{"visits":{"0":99}}',
    rows: lateRowsOf("o'clock"), emit: "ALL", run_id: "fix_42", late: "exclude", withdraw: true, overwrite: true, append: true, chunk: "1 hour",
    max_rows_per_second: "50000", waits: false,
  };
  assert.equal(reprocessStatement(all, "PLAN").sql, [
    'PLAN REPROCESS JOB "a""b"',
    "FROM '2025-09-04T10:00:00' TO '2025-09-04T11:00:00'",
    'OFFSETS FROM \'{"visits":{"0":23}}\' TO \'{"visits":{"0":99}}\'',
    "FOR (SELECT topic, \"partition\", \"offset\" FROM system.late_rows WHERE job = 'o''clock')",
    "EMIT ALL",
    "WITH ('run_id' 'fix_42', 'late' 'exclude', 'withdraw' 'true', 'overwrite' 'true', 'write' 'append', " +
      "'chunk' '1 hour', 'max_rows_per_second' '50000', 'yield' 'false')",
  ].join("\n"));
});

test("a form says which entry it lacks", () => {
  const order = { ...EMPTY_ORDER, job: "copy", from: "2025-09-04T10:00:00", to: "2025-09-04T11:00:00" };
  const missing = (/** @type {Partial<typeof order>} */ given) =>
    reprocessStatement({ ...order, ...given }, "PLAN").missing;
  assert.equal(missing({}), null);
  assert.match(missing({ job: "" }) ?? "", /job/);
  assert.match(missing({ from: "soon" }) ?? "", /beginning is an invalid time/);
  assert.match(missing({ to: "soon" }) ?? "", /end is an invalid time/);
  assert.match(missing({ to: "" }) ?? "", /beginning and an end/);
  assert.match(missing({ to: order.from }) ?? "", /after the beginning/);
  assert.match(missing({ from: "", to: "" }) ?? "", /Give a range/);
  assert.match(missing({ offsetsFrom: "{}" }) ?? "", /range of offsets/);
  assert.equal(missing({ from: "", to: "", rows: "SELECT 1" }), null);
  assert.match(missing({ run_id: "a b" }) ?? "", /id of a run/);
  assert.match(missing({ run_id: "r".repeat(81) }) ?? "", /1 to 80/);
  assert.equal(missing({ run_id: "r".repeat(80) }), null);
  assert.match(missing({ max_rows_per_second: "0" }) ?? "", /number from 1/);
});

test("an answer without a run is known", () => {
  const columns = ["item", "value"].map((name) => ({ name, type: "VARCHAR", is_number: false }));
  assert.equal(hasRun({ columns, rows: [["run_id", "r"], ["outcome", "run 'r' is planned"]] }), true);
  assert.equal(hasRun({ columns, rows: [["outcome", "there is nothing to reprocess"]] }), false);
  assert.equal(hasRun({ columns, rows: [] }), false);
});

test("changed fields are marked on both sides", () => {
  const names = ["run_id", "job", "chunk", "range", "kind", "key", "window_start", "window_end", "before", "after", "total"];
  const columns = names.map((name) => ({ name, type: "VARCHAR", is_number: false }));
  const row = (/** @type {string | null} */ before, /** @type {string | null} */ after) =>
    ["r", "j", 3, RANGE, "changed", '{"user_id":7}', "2025-09-04T10:00:00Z", "2025-09-04T11:00:00Z", before, after, 40];
  const { changes, total } = changesOf({ columns, rows: [
    row('{"n":5,"big":9007199254740993,"x":null}', '{"n":5,"big":9007199254740992,"x":null}'),
    row(null, '{"n":5}'),
  ] });
  assert.equal(total, 40);
  const [changed, added] = changes;
  assert.equal(changed.key, "user_id 7");
  assert.equal(changed.chunk, "3");
  assert.equal(changed.window, "2025-09-04 10:00:00 to 2025-09-04 11:00:00");
  assert.deepEqual(changed.before?.map(({ name, differs }) => [name, differs]),
    [["n", false], ["big", true], ["x", false]]);
  assert.deepEqual(changed.after?.map(({ value }) => valueText(value)), ["5", "9007199254740992", "NULL"]);
  assert.equal(added.before, null);
  assert.deepEqual(added.after?.map(({ differs }) => differs), [false], "there is nothing to differ from");
  assert.deepEqual(changesOf({ columns, rows: [] }), { changes: [], total: 0 });
});

test("a key is one line, whatever it is", () => {
  assert.equal(keyText('{"a":1,"b":"x\\"1"}'), 'a 1, b x"1');
  assert.equal(keyText(null), "–");
  assert.equal(keyText("plain"), "plain");
  assert.equal(valueText({ a: [1] }), '{"a":[1]}');
  assert.equal(keyText('{"a":0.125,"b":-12345678901234567890,"c":1e30}'), "a 0.125, b -12345678901234567890, c 1e+30");
});
