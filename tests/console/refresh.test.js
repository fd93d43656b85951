// Owns the tests of addresses and of how often the page reads data.

import assert from "node:assert/strict";
import { test } from "node:test";

import { AT_ONCE, eased } from "../../src/server/console/assets/pure/eased.js";
import { refreshLoop, waitAfter } from "../../src/server/console/assets/pure/refresh-loop.js";
import { entryOf, parseRoute, path } from "../../src/server/console/assets/pure/route.js";

test("an address has a view, and may choose a job or a table in it", () => {
  assert.deepEqual(parseRoute(""), { view: "jobs", chosen: null });
  assert.deepEqual(parseRoute("#/"), { view: "jobs", chosen: null });
  assert.deepEqual(parseRoute("#/query"), { view: "query", chosen: null });
  assert.deepEqual(parseRoute("#/tables/ticks"), { view: "tables", chosen: "ticks" });
  assert.deepEqual(parseRoute("#/runs/fix_42"), { view: "runs", chosen: "fix_42" });
  assert.deepEqual(parseRoute("#/reprocess"), { view: "reprocess", chosen: null });
  assert.deepEqual(["reprocess", "runs", "jobs"].map((name) => entryOf(parseRoute(`#/${name}`)?.view ?? "query")),
    ["runs", "runs", "jobs"]);
  assert.deepEqual(parseRoute("#/toString"), { view: "jobs", chosen: null });
  assert.deepEqual(parseRoute("#/jobs/100%"), { view: "jobs", chosen: "100%" }, "not encoded as it should be");
  assert.equal(parseRoute("#main"), null);
});

test("each name comes back from its address", () => {
  for (const name of ["copy", "<b>by</b> 10 s/é", "a/b", "%2F", "#", "?x=1", "..", "😀"]) {
    assert.deepEqual(parseRoute(`#/jobs${path(name)}`), { view: "jobs", chosen: name });
  }
  assert.equal(path("a/b", "c d"), "/a%2Fb/c%20d");
});

test("costly data is read again for a new batch, after a pause", async () => {
  let now = 0;
  let reads = 0;
  const load = eased(async () => {
    reads += 1;
    now += 100;
  }, () => now);
  await load("1");
  await load("1");
  assert.equal(reads, 1, "nothing is new");
  await load("2");
  assert.equal(reads, 1, "too soon");
  now += 1_000;
  await load("2");
  assert.equal(reads, 2);
  await load(AT_ONCE);
  assert.equal(reads, 3, "wanted at once");
  now += 1_000;
  await load("2");
  assert.equal(reads, 3, "read since");
});

test("a failed reading is tried again", async () => {
  let fails = true;
  let reads = 0;
  const load = eased(async () => {
    if (fails) throw new Error("gone");
    reads += 1;
  }, () => 0);
  await assert.rejects(load("1"), /gone/);
  fails = false;
  await load("1");
  assert.equal(reads, 1);
});

test("a slow server is asked less often, one that is gone as often as ever", () => {
  assert.equal(waitAfter(10, false), 2_000);
  assert.equal(waitAfter(1_000, false), 5_000);
  assert.equal(waitAfter(60_000, true), 2_000);
});

/** A loop with its surroundings, all of which the test controls. */
function controlled() {
  const seen = {
    now: 0, isHidden: false, refresh: async () => {},
    /** @type {string[]} */
    log: [],
    /** @type {{ action: () => void, milliseconds: number, isPrevented: boolean }[]} */
    timers: [],
  };
  const look = refreshLoop({
    refresh: () => seen.refresh(),
    succeeded: () => seen.log.push("succeeded"),
    failed: (error) => seen.log.push(String(error)),
    isHidden: () => seen.isHidden,
    isGone: () => false,
    now: () => seen.now,
    later: (action, milliseconds) => {
      const timer = { action, milliseconds, isPrevented: false };
      seen.timers.push(timer);
      return () => { timer.isPrevented = true; };
    },
  });
  return { seen, look };
}

test("the loop goes on after success and failure", async () => {
  const { seen, look } = controlled();
  seen.refresh = async () => { seen.now += 1_000; };
  await look();
  assert.deepEqual(seen.log, ["succeeded"]);
  assert.equal(seen.timers[0].milliseconds, 5_000);
  seen.refresh = async () => { throw new Error("no"); };
  await look();
  assert.deepEqual(seen.log, ["succeeded", "Error: no"]);
  assert.equal(seen.timers.length, 2);
  assert.ok(seen.timers[0].isPrevented, "there is one timer at most");
  assert.ok(!seen.timers[1].isPrevented);
});

test("only the last call of the loop counts", async () => {
  const { seen, look } = controlled();
  /** @type {(() => void)[]} */
  const answers = [];
  seen.refresh = () => new Promise((resolve) => { answers.push(() => resolve(undefined)); });
  const [first, second] = [look(), look()];
  answers[1]();
  await second;
  assert.deepEqual(seen.log, ["succeeded"]);
  answers[0]();
  await first;
  assert.deepEqual(seen.log, ["succeeded"]);
  assert.equal(seen.timers.length, 1);
});

test("a hidden page is not refreshed", async () => {
  const { seen, look } = controlled();
  await look();
  seen.isHidden = true;
  await look();
  assert.deepEqual(seen.log, ["succeeded"]);
  assert.ok(seen.timers.every((timer) => timer.isPrevented));
});
