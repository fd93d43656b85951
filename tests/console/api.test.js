// Owns the tests of requests and answers: data, refusals, no answer, and the login.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { dataOf, Gone, Refused } from "../../src/server/console/assets/pure/answers.js";
import { objects } from "../../src/server/console/assets/pure/wire.js";
import { get, onLogin, post } from "../../src/server/console/assets/server/api.js";

const { fetch } = globalThis;
afterEach(() => { globalThis.fetch = fetch; });

/**
 * Answers the next requests; gives what was asked.
 *
 * @param {...(Response | Error)} answers
 */
function answer(...answers) {
  /** @type {{ url: string, request: RequestInit }[]} */
  const asked = [];
  globalThis.fetch = async (url, request) => {
    asked.push({ url: String(url), request: request ?? {} });
    const next = answers.shift();
    if (!next || next instanceof Error) throw next ?? new Error("one request too many");
    return next;
  };
  return asked;
}

/**
 * @param {unknown} body
 * @param {number} status
 */
function json(body, status = 200) {
  return new Response(JSON.stringify(body), { status });
}

const PLEASE_LOG_IN = { error: { message: "log in" } };

test("rows become objects by the names of their columns", () => {
  const columns = ["a", "b"].map((name) => ({ name, type: "BIGINT", is_number: true }));
  assert.deepEqual(objects({ columns, rows: [[1, null], [2, "x"]] }), [{ a: 1, b: null }, { a: 2, b: "x" }]);
});

test("a refusal has its reason, help and place", () => {
  const error = { message: "no column", help: "look", from: { line: 2, column: 1 }, to: { line: 2, column: 3 } };
  assert.throws(() => dataOf(400, { error }), (/** @type {unknown} */ thrown) => {
    assert.ok(thrown instanceof Refused);
    const { status, message, help, from, to } = thrown;
    assert.deepEqual({ status, message, help, from, to }, { status: 400, ...error });
    return true;
  });
  const without = { message: "none", help: null, from: null, to: null };
  assert.throws(() => dataOf(404, { error: { message: "none" } }), without);
});

test("an error without a reason is not of the server", () => {
  for (const body of [null, {}, "Bad Gateway"]) assert.throws(() => dataOf(502, body), Gone);
  assert.deepEqual(dataOf(200, { error: null }), { error: null });
});

test("requests go below /api, as JSON, with the cookie of this page only", async () => {
  const asked = answer(json({ n: 1 }), json({ n: 2 }));
  assert.deepEqual(await get("/jobs"), { n: 1 });
  assert.deepEqual(await post("/query", { sql: "SELECT 1" }), { n: 2 });
  assert.deepEqual(asked.map(({ url }) => url), ["/api/jobs", "/api/query"]);
  const [read, sent] = asked.map(({ request }) => request);
  assert.equal(read.method, "GET");
  assert.equal(read.body, undefined);
  assert.equal(sent.method, "POST");
  assert.equal(sent.body, '{"sql":"SELECT 1"}');
  assert.deepEqual(sent.headers, { "Content-Type": "application/json" });
  assert.ok([read, sent].every((request) => request.credentials === "same-origin"));
});

test("a server that does not answer, or not with JSON, is gone", async () => {
  answer(new TypeError("failed to fetch"));
  await assert.rejects(get("/jobs"), Gone);
  answer(new Response("<html>"));
  await assert.rejects(get("/jobs"), Gone);
});

test("a request is sent again after the login", async () => {
  const asked = answer(json(PLEASE_LOG_IN, 401), json({ n: 1 }));
  let logins = 0;
  onLogin(async () => { logins += 1; });
  assert.deepEqual(await get("/jobs"), { n: 1 });
  assert.equal(logins, 1);
  assert.equal(asked.length, 2);
});

test("a login that is refused does not ask for a login", async () => {
  answer(json({ error: { message: "wrong password" } }, 401));
  onLogin(async () => assert.fail("asked again"));
  await assert.rejects(post("/login", {}), { message: "wrong password" });
});
