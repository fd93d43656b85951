// Owns what can be typed at a place of a statement: which kind of name stands there, and the names to choose from.

import { tokens } from "./sql-tokens.js";
import { isPlain, KEYWORDS, PHRASES, SYSTEM_TABLES, TABLE_FUNCTIONS, TYPES } from "./sql-words.js";
import { literal, quoted } from "./statement.js";

/** @import { Token } from "./sql-tokens.js" */

/**
 * A table that a statement names: `schema` is empty for one of the user's own; `alias` is how columns name it.
 *
 * @typedef {{ schema: string, table: string, alias: string }} Source
 */
/**
 * A name that is wanted: the text that it replaces begins at `start`. `sources` are the tables whose columns may stand
 * there.
 *
 * @typedef {{
 *   start: number, typed: string, place: "table" | "system" | "job" | "run" | "column" | "any", sources: Source[],
 *   views: string[],
 * }} Wanted
 */
/**
 * The names that the server has.
 *
 * @typedef {{
 *   tables: string[], jobs: string[], runs: string[], functions: string[], columns: { name: string, type: string }[],
 * }} Names
 */
/**
 * A name to choose. `apply` is the text that is written for it, if that differs.
 *
 * @typedef {{ label: string, type: string, apply?: string, detail?: string, boost?: number }} Option
 */

/** Words before the name of a table. */
const BEFORE_TABLE = new Set([
  "FROM", "JOIN", "INTO", "OVERWRITE", "TABLE", "UPDATE", "SUMMARIZE", "OPTIMIZE", "VACUUM", "VIEW", "HISTORY",
  "DESCRIBE",
]);
/** What has no names in it. */
const CLOSED = new Set(["comment", "text", "number", "parameter"]);

/**
 * The name that is wanted at an offset; null within texts, comments and numbers.
 *
 * @param {string} text
 * @param {number} at
 * @returns {Wanted | null}
 */
export function wantedAt(text, at) {
  const all = tokens(text);
  const here = all.find((token) => token.start < at && at <= token.end);
  if (here && CLOSED.has(here.kind)) return null;
  const start = here && here.kind !== "symbol" ? here.start : at;
  const statement = around(text, all, start);
  const words = statement.map((token) => ({ ...token, word: text.slice(token.start, token.end) }));
  const before = words.filter((token) => token.end <= start);
  const sources = sourcesOf(words.filter((token) => token !== here && token.start !== start));
  /** @type {Wanted} */
  const wanted = { start, typed: text.slice(start, at), place: "any", sources, views: viewsOf(words) };
  const [last, owner] = [before.at(-1), before.at(-2)];
  if (last?.word === ".") {
    const name = named(owner?.word ?? "");
    if (name === "system") return { ...wanted, place: "system", sources: [] };
    const own = sources.filter((source) => source.alias === name);
    return { ...wanted, place: "column", sources: own };
  }
  const word = last?.kind === "keyword" ? last.word.toUpperCase() : "";
  if (BEFORE_TABLE.has(word)) wanted.place = "table";
  if (word === "JOB") wanted.place = "job";
  if (word === "RUN") wanted.place = "run";
  return wanted;
}

/**
 * What can be chosen there.
 *
 * @param {Wanted} wanted
 * @param {Names} names those of its sources
 * @returns {Option[]}
 */
export function optionsFor({ place, views }, { tables, jobs, runs, functions, columns }) {
  const ownColumns = columns.map(({ name, type }) => ({ ...option(name, "property"), detail: type, boost: 2 }));
  const ownTables = [...tables, ...views].map((name) => ({ ...option(name, "class"), boost: 1 }));
  const callable = (/** @type {string} */ name) => ({ label: name, type: "function" });
  switch (place) {
    case "column": return ownColumns;
    case "system": return SYSTEM_TABLES.map((name) => option(name, "class"));
    case "job": return jobs.map((name) => option(name, "variable"));
    case "run": return runs.map((name) => ({ label: name, type: "text", apply: literal(name) }));
    case "table":
      return [...ownTables, { label: "system", type: "namespace" }, ...TABLE_FUNCTIONS.map(callable)];
    default: {
      const words = [...KEYWORDS, ...TYPES, ...PHRASES].map((label) => ({ label, type: "keyword", boost: -1 }));
      return [...ownColumns, ...ownTables, ...new Set([...functions, ...TABLE_FUNCTIONS])].map((one) =>
        typeof one === "string" ? callable(one) : one).concat(words);
    }
  }
}

/**
 * The tokens of the statement around an offset, without comments.
 *
 * @param {string} text
 * @param {Token[]} all
 * @param {number} at
 * @returns {Token[]}
 */
function around(text, all, at) {
  const ends = all.filter((token) => token.kind === "symbol" && text[token.start] === ";").map((token) => token.start);
  const from = ends.filter((end) => end < at).at(-1) ?? -1;
  const to = ends.find((end) => end >= at) ?? text.length;
  return all.filter((token) => token.start > from && token.start < to && token.kind !== "comment");
}

/**
 * The tables that a statement names.
 *
 * @param {(Token & { word: string })[]} words
 * @returns {Source[]}
 */
function sourcesOf(words) {
  /** @type {Source[]} */
  const found = [];
  const isName = (/** @type {number} */ at) => words[at]?.kind === "name" || words[at]?.kind === "quoted";
  words.forEach((token, at) => {
    if (token.kind !== "keyword" || !BEFORE_TABLE.has(token.word.toUpperCase())) return;
    for (let next = at + 1; isName(next); next++) {
      let schema = "";
      if (words[next + 1]?.word === "." && isName(next + 2)) {
        schema = named(words[next].word);
        next += 2;
      }
      const table = named(words[next].word);
      if (words[next + 1]?.word.toUpperCase() === "AS") next += 1;
      const alias = isName(next + 1) ? named(words[++next].word) : table;
      found.push({ schema, table, alias });
      if (words[++next]?.word !== ",") break;
    }
  });
  return found;
}

/**
 * The names that WITH gives to queries.
 *
 * @param {(Token & { word: string })[]} words
 * @returns {string[]}
 */
function viewsOf(words) {
  if (!words.some((token) => token.word.toUpperCase() === "WITH")) return [];
  return words
    .filter((token, at) => (token.kind === "name" || token.kind === "quoted")
      && words[at + 1]?.word.toUpperCase() === "AS" && words[at + 2]?.word === "(")
    .map((token) => named(token.word));
}

/**
 * The name that a word stands for: without quotes it is in small letters.
 *
 * @param {string} word
 * @returns {string}
 */
function named(word) {
  return word.startsWith('"') ? word.replace(/^"|"$/g, "").replaceAll('""', '"') : word.toLowerCase();
}

/**
 * @param {string} name
 * @param {string} type
 * @returns {Option}
 */
function option(name, type) {
  return isPlain(name) ? { label: name, type } : { label: name, type, apply: quoted(name) };
}
