// Owns the tests of results without an end: lines that come in pieces, the rows that are kept, and how the answer ends.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { Gone, isLast, Refused } from "../../src/server/console/assets/pure/answers.js";
import { Lines } from "../../src/server/console/assets/pure/lines.js";
import { NewestRows } from "../../src/server/console/assets/pure/newest.js";
import { post } from "../../src/server/console/assets/server/api.js";

const { fetch } = globalThis;
afterEach(() => { globalThis.fetch = fetch; });

const TYPE = { "Content-Type": "application/x-ndjson" };

/**
 * Answers the next request with these pieces; gives the lines that came, and how the answer ended.
 *
 * @param {(string | Uint8Array)[]} pieces
 */
async function read(pieces) {
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(typeof piece === "string" ? encoder.encode(piece) : piece);
      controller.close();
    },
  });
  globalThis.fetch = async () => new Response(body, { headers: TYPE });
  /** @type {any[]} */
  const lines = [];
  const ended = await post("/query", {}, (line) => lines.push(line)).catch((error) => error);
  return { lines, ended };
}

test("lines are put together from their pieces", () => {
  const lines = new Lines();
  assert.deepEqual(lines.take('{"a":'), []);
  assert.deepEqual(lines.take('1}\n\n{"a":2}\n{'), [{ a: 1 }, { a: 2 }]);
  assert.deepEqual(lines.take("}\n"), [{}]);
});

test("lines of an answer are given as they come, and characters may be cut", async () => {
  const [first, second] = [new TextEncoder().encode('{"rows":[["é"]]}\n').subarray(0, 12), new Uint8Array(0)];
  const rest = new TextEncoder().encode('{"rows":[["é"]]}\n').subarray(12);
  const { lines, ended } = await read(['{"columns":[]}\n', first, second, rest, "\n", '{"is_complete":true}\n']);
  assert.equal(ended, null);
  assert.deepEqual(lines, [{ columns: [] }, { rows: [["é"]] }, { is_complete: true }]);
});

test("an error is the last line, and an answer without a last line was cut off", async () => {
  const failed = await read(['{"columns":[]}\n', '{"error":{"message":"no more","help":"wait"}}\n']);
  assert.ok(failed.ended instanceof Refused);
  assert.equal(failed.ended.message, "no more");
  assert.equal(failed.lines.length, 1);
  const cut = await read(['{"columns":[]}\n', '{"rows":[[1]],"count":1}\n']);
  assert.ok(cut.ended instanceof Gone);
  assert.equal(cut.lines.length, 2);
  assert.ok(!isLast({ rows: [] }));
});

test("an answer that comes whole has no lines", async () => {
  globalThis.fetch = async () => new Response('{"rows":[]}', { headers: { "Content-Type": "application/json" } });
  assert.deepEqual(await post("/query", {}, () => assert.fail("a line")), { rows: [] });
});

test("the newest rows are kept, and all are counted", () => {
  const newest = new NewestRows(3);
  assert.equal(newest.said, "0 rows");
  newest.take([[1], [2]], 2);
  assert.deepEqual(newest.fresh(), [[1], [2]]);
  assert.equal(newest.said, "2 rows");
  newest.take([[3], [4]], 2);
  newest.take([[1_005]], 1_001);
  assert.deepEqual(newest.kept, [[3], [4], [1_005]]);
  assert.deepEqual(newest.fresh(), [[3], [4], [1_005]]);
  assert.deepEqual(newest.fresh(), []);
  assert.equal(newest.said, "1,005 rows, of which the newest 3 are shown");
});
