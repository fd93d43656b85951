// Owns how the text of a statement is cut into tokens: for its colours, and to know which name is wanted at a place.

import { KEYWORDS, SOFT, TYPES } from "./sql-words.js";

/** @typedef {"keyword" | "type" | "function" | "name" | "quoted"} WordKind */
/** @typedef {WordKind | "text" | "number" | "comment" | "parameter" | "symbol"} Kind */
/** @typedef {{ kind: Kind, start: number, end: number }} Token a token, by its offsets */
/**
 * The state at the end of a line: nothing is open, or a text, a quoted name, or comments, each within the other.
 *
 * @typedef {"" | "'" | '"' | `/*${string}`} Open
 */

const SPACE = /\s+/y;
const WORD = /[\p{L}_][\p{L}\p{N}_]*/uy;
const NUMBER = /(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?/iy;
const PARAMETER = /\$(?:\{[^}]*\}?|[\p{L}\p{N}_]+)/uy;
const SYMBOL = /<=|>=|<>|!=|\|\||::|=>|->>?|[^\s]/uy;

/**
 * The next part of a line, which is white space if it has no kind. `open` is what was open before it.
 *
 * @param {string} line
 * @param {number} at an offset before the end of the line
 * @param {Open} open
 * @returns {{ kind: Kind | null, end: number, open: Open }}
 */
export function nextPart(line, at, open) {
  if (open.startsWith("/*")) return comment(line, at, open);
  if (open === "'") return quotedPart(line, at, "'", "text");
  if (open === '"') return quotedPart(line, at, '"', "quoted");
  if (line.startsWith("--", at)) return { kind: "comment", end: line.length, open: "" };
  if (line.startsWith("/*", at)) return comment(line, at + 2, "/*");
  if (line[at] === "'") return quotedPart(line, at + 1, "'", "text");
  if (line[at] === '"') return quotedPart(line, at + 1, '"', "quoted");
  const space = match(SPACE, line, at);
  if (space !== null) return { kind: null, end: space, open: "" };
  const word = match(WORD, line, at);
  if (word !== null) return { kind: wordKind(line, at, word), end: word, open: "" };
  const number = match(NUMBER, line, at);
  if (number !== null) return { kind: "number", end: number, open: "" };
  const parameter = match(PARAMETER, line, at);
  if (parameter !== null) return { kind: "parameter", end: parameter, open: "" };
  return { kind: "symbol", end: match(SYMBOL, line, at) ?? at + 1, open: "" };
}

/**
 * All tokens of a text. One that goes on over several lines is one for each line.
 *
 * @param {string} text
 * @returns {Token[]}
 */
export function tokens(text) {
  /** @type {Token[]} */
  const found = [];
  /** @type {Open} */
  let open = "";
  let start = 0;
  for (const line of text.split("\n")) {
    let at = 0;
    while (at < line.length) {
      const part = nextPart(line, at, open);
      if (part.kind !== null) found.push({ kind: part.kind, start: start + at, end: start + part.end });
      ({ end: at, open } = part);
    }
    start += line.length + 1;
  }
  return found;
}

/**
 * @param {RegExp} pattern sticky
 * @param {string} line
 * @param {number} at
 * @returns {number | null} the end of what fits there
 */
function match(pattern, line, at) {
  pattern.lastIndex = at;
  return pattern.test(line) ? pattern.lastIndex : null;
}

/**
 * The kind of a word. Behind a point it is a name; so is a word that can be one beside commas, brackets and operators.
 *
 * @param {string} line
 * @param {number} start
 * @param {number} end
 * @returns {Kind}
 */
function wordKind(line, start, end) {
  if (line[start - 1] === ".") return "name";
  const word = line.slice(start, end).toUpperCase();
  const [before, after] = [line.slice(0, start), line.slice(end)];
  if (SOFT.has(word) && (/[,(]\s*$/.test(before) || /^\s*[,.)=<>+*/|:-]/.test(after))) return "name";
  if (TYPES.has(word)) return "type";
  if (KEYWORDS.has(word)) return "keyword";
  return /^\s*\(/.test(after) ? "function" : "name";
}

/**
 * The rest of a text or a quoted name, in which two quotes stand for one.
 *
 * @param {string} line
 * @param {number} at behind the first quote
 * @param {"'" | '"'} quote
 * @param {Kind} kind
 * @returns {{ kind: Kind, end: number, open: Open }}
 */
function quotedPart(line, at, quote, kind) {
  for (let end = line.indexOf(quote, at); end >= 0; end = line.indexOf(quote, end + 2)) {
    if (line[end + 1] !== quote) return { kind, end: end + 1, open: "" };
  }
  return { kind, end: line.length, open: quote };
}

/**
 * The rest of a comment. A comment within it ends first.
 *
 * @param {string} line
 * @param {number} at
 * @param {Open} open
 * @returns {{ kind: Kind, end: number, open: Open }}
 */
function comment(line, at, open) {
  let depth = open.length / 2;
  for (const mark of line.slice(at).matchAll(/\/\*|\*\//g)) {
    depth += mark[0] === "/*" ? 1 : -1;
    if (depth === 0) return { kind: "comment", end: at + mark.index + 2, open: "" };
  }
  return { kind: "comment", end: line.length, open: /** @type {Open} */ ("/*".repeat(depth)) };
}
