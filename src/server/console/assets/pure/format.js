// Owns how numbers, times and durations are written.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** A dash, in place of an unknown value. */
export const NONE = "–";

/**
 * A whole number with its thousands separated.
 *
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function count(value) {
  return value === null || value === undefined ? NONE : grouped.format(value);
}

/**
 * A number for an axis.
 *
 * @param {number} value
 * @returns {string}
 */
export function compact(value) {
  return short.format(value);
}

/**
 * Rows per second.
 *
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return `${value >= 100 ? grouped.format(value) : precise.format(value)}/s`;
}

/**
 * A time as it is in the data: UTC, without a T.
 *
 * @param {string | null | undefined} iso
 * @returns {string}
 */
export function time(iso) {
  return iso ? iso.replace("T", " ").replace(/Z$/, "").replace(/\.0+$/, "") : NONE;
}

/**
 * How long ago a time was, by the server's clock.
 *
 * @param {string | null | undefined} iso
 * @param {string} now
 * @returns {string}
 */
export function ago(iso, now) {
  if (!iso) return NONE;
  const seconds = Math.max(0, (Date.parse(now) - Date.parse(iso)) / 1000);
  return seconds < 1 ? "now" : `${span(seconds)} ago`;
}

/** @type {[string, number][]} */
const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];

/**
 * A number of seconds in its two largest units.
 *
 * @param {number} seconds
 * @returns {string}
 */
export function span(seconds) {
  const at = UNITS.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [unit, size] = UNITS[at];
  const whole = Math.floor(seconds / size);
  const next = UNITS[at + 1];
  const rest = next ? Math.floor((seconds - whole * size) / next[1]) : 0;
  return rest > 0 && whole < 10 ? `${whole} ${unit} ${rest} ${next[0]}` : `${whole} ${unit}`;
}

/**
 * A duration.
 *
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  return value < 10_000 ? `${grouped.format(value)} ms` : span(value / 1000);
}

/**
 * A number of things, with the right form of the word.
 *
 * @param {number} number
 * @param {string} one
 * @param {string} many
 * @returns {string}
 */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/**
 * A text of at most `most` characters; a longer one ends with an ellipsis.
 *
 * @param {string} text
 * @param {number} most
 * @returns {string}
 */
export function shortened(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
