// Owns the tests of the statement that is run, the places of errors, and the history.

import assert from "node:assert/strict";
import { test } from "node:test";

import { MOST_KEPT, parseHistory, remembered } from "../../src/server/console/assets/pure/history.js";
import { excerpt, offset, wrongPart } from "../../src/server/console/assets/pure/place.js";
import { quoted, statementToRun } from "../../src/server/console/assets/pure/statement.js";

test("the selection is run, or all of the text", () => {
  const text = "SELECT 1;\nSELECT 2";
  assert.deepEqual(statementToRun(text, [10, 18], null), { sql: "SELECT 2", at: 10 });
  assert.deepEqual(statementToRun(text, [3, 3], null), { sql: text, at: 0 });
  assert.deepEqual(statementToRun(text, [9, 10], null), { sql: text, at: 0 }, "white space is no statement");
});

test("a selection that shows an error is not run", () => {
  assert.deepEqual(statementToRun("SELECT wrong", [7, 12], [7, 12]), { sql: "SELECT wrong", at: 0 });
  assert.deepEqual(statementToRun("SELECT wrong", [7, 11], [7, 12]), { sql: "wron", at: 7 });
});

test("names are quoted", () => {
  assert.equal(quoted("ticks"), '"ticks"');
  assert.equal(quoted('odd "name"'), '"odd ""name"""');
});

test("places count characters, offsets count UTF-16 units", () => {
  assert.equal(offset("abc", { line: 1, column: 3 }), 2);
  assert.equal(offset("a\nbc", { line: 2, column: 2 }), 3);
  assert.equal(offset("'😀' x", { line: 1, column: 5 }), 5);
  assert.equal(offset("ab", { line: 1, column: 9 }), 2, "behind the end of the line");
});

test("the wrong part of a selection is found in all of the text", () => {
  const text = "SELECT 1;\nSELECT 2;\n  SELECT wrong";
  const part = wrongPart(text, "SELECT wrong", 22, { line: 1, column: 8 }, { line: 1, column: 13 });
  assert.deepEqual(part, { start: 29, end: 34, line: 3, column: 10 });
  assert.equal(text.slice(part.start, part.end), "wrong");
});

test("a wrong part has at least one character", () => {
  const here = { line: 1, column: 2 };
  assert.deepEqual(wrongPart("abc", "abc", 0, here, here), { start: 1, end: 2, line: 1, column: 2 });
  assert.deepEqual(wrongPart("abc", "abc", 0, here, null), { start: 1, end: 2, line: 1, column: 2 });
});

test("the marks stand below the wrong part", () => {
  const text = "SELECT id,\n\tnothing\nFROM seen";
  const part = wrongPart(text, text, 0, { line: 2, column: 2 }, { line: 2, column: 9 });
  assert.equal(excerpt(text, part), "\tnothing\n\t^^^^^^^");
  const wide = "'😀' + x";
  const last = wrongPart(wide, wide, 0, { line: 1, column: 7 }, { line: 1, column: 8 });
  assert.equal(excerpt(wide, last), `${wide}\n      ^`);
});

test("a part of several lines is marked to the end of its first", () => {
  const text = "a (b\nc)";
  const part = wrongPart(text, text, 0, { line: 1, column: 3 }, { line: 2, column: 3 });
  assert.equal(excerpt(text, part), "a (b\n  ^^");
});

test("text that is not a history is read as an empty one", () => {
  for (const text of [null, "", "{", "null", '"text"', "{}"]) assert.deepEqual(parseHistory(text), [], String(text));
  const entry = { sql: "SELECT 1", at: "2025-01-01T00:00:00Z", said: "1 row", milliseconds: 3 };
  assert.deepEqual(parseHistory(JSON.stringify([null, 1, { sql: "x" }, { at: "y" }, entry])), [entry]);
});

test("a statement is remembered once, the newest first", () => {
  const [one, two] = ["1", "2"].map((at) => ({ sql: `SELECT ${at}`, at }));
  const again = { sql: "SELECT 1", at: "3" };
  const all = remembered(remembered(remembered([], one), two), again);
  assert.deepEqual(all, [again, two]);
  assert.deepEqual(parseHistory(JSON.stringify(all)), all);
});

test("the history has an end", () => {
  const full = Array.from({ length: MOST_KEPT }, (_, at) => ({ sql: `SELECT ${at}`, at: String(at) }));
  const all = remembered(full, { sql: "SELECT 'new'", at: "new" });
  assert.equal(all.length, MOST_KEPT);
  assert.equal(all[0].sql, "SELECT 'new'");
  assert.equal(all.at(-1)?.sql, `SELECT ${MOST_KEPT - 2}`);
});
