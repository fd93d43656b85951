// Owns instants of event time: in texts of the server, in fields of the page, and as milliseconds since 1970.

const INSTANT = /\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?/g;

/**
 * The instants that a text has, in milliseconds, in their order.
 *
 * @param {string} text
 * @returns {number[]}
 */
export function instants(text) {
  return [...text.matchAll(INSTANT)].map(([found]) => instant(found)).filter((at) => at !== null);
}

/**
 * A time of the data, which is UTC, in milliseconds; null if it is none.
 *
 * @param {unknown} text
 * @returns {number | null}
 */
export function instant(text) {
  if (typeof text !== "string" || text === "") return null;
  const at = Date.parse(/(?:Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
  return Number.isFinite(at) ? at : null;
}

/**
 * Milliseconds as a field for a time has them: UTC, to the second, or further where that is needed.
 *
 * @param {number} at
 * @returns {string}
 */
export function fieldText(at) {
  return new Date(at).toISOString().replace("Z", "").replace(/\.000$/, "");
}
