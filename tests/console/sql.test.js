// Owns the tests of the editor's SQL: tokens, the kind of name that a place wants, and the names to choose from.

import assert from "node:assert/strict";
import { test } from "node:test";

import { optionsFor, wantedAt } from "../../src/server/console/assets/pure/completion.js";
import { nextPart, tokens } from "../../src/server/console/assets/pure/sql-tokens.js";
import { isPlain, KEYWORDS, PHRASES, SOFT, TYPES } from "../../src/server/console/assets/pure/sql-words.js";

/** @param {string} text */
function cut(text) {
  return tokens(text).map(({ kind, start, end }) => [kind, text.slice(start, end)]);
}

/**
 * The name that is wanted at the mark | in a text.
 *
 * @param {string} marked
 */
function wanted(marked) {
  const at = marked.indexOf("|");
  return wantedAt(marked.slice(0, at) + marked.slice(at + 1), at);
}

const NAMES = {
  tables: ["visits", "Odd table"], jobs: ["copy", "by 10 s"], runs: ["fix_42", "o'clock"], functions: ["count", "now"],
  columns: [{ name: "id", type: "BIGINT" }, { name: "order", type: "VARCHAR" }],
};

/** @param {string} marked */
function offered(marked) {
  const found = wanted(marked);
  assert.ok(found, marked);
  return optionsFor(found, NAMES).map(({ label, apply }) => apply ?? label);
}

test("a statement is cut into tokens", () => {
  assert.deepEqual(cut("SELECT count(*), 'it''s' FROM \"a\"\"b\" -- all\nWHERE x >= 1.5e-3 AND y = $1"), [
    ["keyword", "SELECT"], ["function", "count"], ["symbol", "("], ["symbol", "*"], ["symbol", ")"], ["symbol", ","],
    ["text", "'it''s'"], ["keyword", "FROM"], ["quoted", '"a""b"'], ["comment", "-- all"], ["keyword", "WHERE"],
    ["name", "x"], ["symbol", ">="], ["number", "1.5e-3"], ["keyword", "AND"], ["name", "y"], ["symbol", "="],
    ["parameter", "$1"],
  ]);
  assert.deepEqual(cut("CAST(ß AS bigint) ${SECRET}"), [
    ["keyword", "CAST"], ["symbol", "("], ["name", "ß"], ["keyword", "AS"], ["type", "bigint"], ["symbol", ")"],
    ["parameter", "${SECRET}"],
  ]);
});

test("a text, name or comment that is open at the end of a line goes on in the next one", () => {
  assert.deepEqual(cut("'a\n-- b\nc' d"), [["text", "'a"], ["text", "-- b"], ["text", "c'"], ["name", "d"]]);
  assert.deepEqual(cut("/* a /* b\n*/ c\n*/ d"),
    [["comment", "/* a /* b"], ["comment", "*/ c"], ["comment", "*/"], ["name", "d"]]);
  assert.deepEqual(cut("\"a\nb\" c"), [["quoted", "\"a"], ["quoted", "b\""], ["name", "c"]]);
});

test("each part goes on, whatever the text is, and the parts are all of it", () => {
  const pieces = ["'", '"', "/*", "*/", "--", "\n", "$", "${", "}", ".", "1e", "é", "😀", " ", "SELECT", ";", "\\"];
  let seed = 7;
  for (let round = 0; round < 500; round++) {
    let text = "";
    for (let at = 0; at < 12; at++) {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
      text += pieces[seed % pieces.length];
    }
    for (const line of text.split("\n")) {
      let at = 0;
      while (at < line.length) {
        const { kind, end } = nextPart(line, at, "");
        assert.ok(end > at && end <= line.length, JSON.stringify(line));
        assert.equal(kind === null, line.slice(at, end).trim() === "", JSON.stringify(line));
        at = end;
      }
    }
    const found = tokens(text);
    const covered = found.map(({ start, end }) => text.slice(start, end)).join("");
    assert.equal(covered.replace(/\s/g, ""), text.replace(/\s/g, ""), JSON.stringify(text));
  }
});

test("a word that can be a name is one beside commas and operators", () => {
  const kinds = (/** @type {string} */ text) =>
    cut(text).filter(([kind]) => kind === "keyword").map(([, word]) => word);
  assert.deepEqual(kinds("SELECT job, batch FROM system.runs"), ["SELECT", "FROM"]);
  assert.deepEqual(kinds("WHERE job = 'j' AND batch > 4"), ["WHERE", "AND"]);
  assert.deepEqual(kinds("REWIND JOB j TO BATCH 4"), ["REWIND", "JOB", "TO", "BATCH"]);
  assert.deepEqual(kinds("SHOW RUNS;"), ["SHOW", "RUNS"]);
});

test("the words are in order", () => {
  assert.deepEqual([...TYPES].filter((word) => KEYWORDS.has(word)), []);
  assert.deepEqual([...SOFT].filter((word) => !KEYWORDS.has(word)), []);
  const all = PHRASES.flatMap((phrase) => phrase.split(" "));
  const unknown = all.filter((word) => !KEYWORDS.has(word) && !TYPES.has(word));
  assert.deepEqual(unknown, []);
});

test("names that need quotes are known", () => {
  for (const name of ["a", "a_1", "_x", "jobs"]) assert.ok(isPlain(name), name);
  for (const name of ["A", "1a", "a-b", "order", "from", "é", ""]) assert.ok(!isPlain(name), name);
});

test("nothing is wanted within texts, comments and numbers", () => {
  for (const text of ["'a|", "'a|b'", "-- a|", "/* a| */", "1|", "$a|", "'a\nb|'"]) {
    assert.equal(wanted(text), null, text);
  }
  assert.ok(wanted("'a' b|"));
});

test("the word before says which names are wanted", () => {
  const place = (/** @type {string} */ text) => wanted(text)?.place;
  assert.equal(place("SELECT * FROM |"), "table");
  assert.equal(place("SELECT * FROM vis|"), "table");
  assert.equal(place("SELECT * FROM a JOIN |"), "table");
  assert.equal(place("INSERT INTO |"), "table");
  assert.equal(place("SELECT * FROM TUMBLE(TABLE |"), "table");
  assert.equal(place("PAUSE JOB |"), "job");
  assert.equal(place("PLAN REPROCESS JOB co|"), "job");
  assert.equal(place("APPLY RUN |"), "run");
  assert.equal(place("SELECT |"), "any");
  assert.equal(place("SELECT * FROM system.|"), "system");
  assert.equal(place("SELECT * FROM system.ru|"), "system");
  assert.equal(place("|"), "any");
  assert.deepEqual(wanted("SELECT sel|ect"), { start: 7, typed: "sel", place: "any", sources: [], views: [] });
});

test("the tables of the statement give their columns", () => {
  const sources = (/** @type {string} */ text) =>
    wanted(text)?.sources.map(({ schema, table, alias }) => `${schema}.${table} ${alias}`);
  assert.deepEqual(sources("SELECT | FROM visits"), [".visits visits"]);
  assert.deepEqual(sources("SELECT | FROM Visits v, \"Odd one\" AS o JOIN system.runs r ON 1 = 1"),
    [".visits v", ".Odd one o", "system.runs r"]);
  assert.deepEqual(sources("SELECT 1 FROM a; SELECT | FROM b; SELECT 1 FROM c"), [".b b"]);
  assert.deepEqual(sources("SELECT v.| FROM visits v JOIN pages p"), [".visits v"]);
  assert.deepEqual(sources("SELECT | FROM TUMBLE(TABLE ticks, DESCRIPTOR(t))"), [".ticks ticks"]);
  assert.deepEqual(sources("SELECT x FROM visits WHERE |"), [".visits visits"]);
  assert.deepEqual(sources("SELECT nothing.| FROM visits"), []);
});

test("names are offered as they are written in SQL", () => {
  assert.deepEqual(offered("SELECT v.| FROM visits v"), ["id", '"order"']);
  assert.ok(offered("SELECT * FROM |").includes('"Odd table"'));
  assert.ok(offered("SELECT * FROM |").includes("archive_coverage"));
  assert.ok(!offered("SELECT * FROM |").includes("count"));
  assert.deepEqual(offered("PAUSE JOB |"), ["copy", '"by 10 s"']);
  assert.deepEqual(offered("APPLY RUN |"), ["'fix_42'", "'o''clock'"]);
  const anything = offered("S|");
  for (const name of ["id", "visits", "count", "SELECT", "BIGINT", "PLAN REPROCESS JOB"]) {
    assert.ok(anything.includes(name), name);
  }
  assert.ok(offered("WITH recent AS (SELECT 1) SELECT * FROM |").includes("recent"));
});
