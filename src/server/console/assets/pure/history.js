// Owns the list of past statements: which ones it keeps, and how it is written as text.

/** Statements that are kept. */
export const MOST_KEPT = 50;

/**
 * A statement that was run: when, what came of it, and how long it took.
 *
 * @typedef {{ sql: string, at: string, said?: string, milliseconds?: number }} Entry
 */

/**
 * Reads a list. Values that are not entries are left out: other versions may have written the text.
 *
 * @param {string | null} text
 * @returns {Entry[]} the newest first
 */
export function parseHistory(text) {
  try {
    const all = JSON.parse(text ?? "[]");
    return Array.isArray(all) ? all.filter(isEntry) : [];
  } catch {
    return [];
  }
}

/**
 * Adds a statement to a list. One that was run before moves to the front.
 *
 * @param {Entry[]} all
 * @param {Entry} entry
 * @returns {Entry[]}
 */
export function remembered(all, entry) {
  return [entry, ...all.filter((one) => one.sql !== entry.sql)].slice(0, MOST_KEPT);
}

/**
 * @param {any} one
 * @returns {one is Entry}
 */
function isEntry(one) {
  return typeof one?.sql === "string" && typeof one.at === "string";
}
