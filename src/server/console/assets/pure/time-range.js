// Owns the range that is chosen on an axis of time: its grid, how keys move its ends, and the labels of the axis.

/** @import { Span } from "./timeline.js" */

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Distances that people count time in. */
const STEPS = [
  SECOND, 5 * SECOND, 15 * SECOND, 30 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR,
  12 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY,
];
/** An axis has at most so many places for the end of a range. */
const PLACES = 240;
/** Shift moves an end by so many steps. */
const MANY = 10;

/**
 * The smallest of the distances of which at most `most` fit into an axis.
 *
 * @param {Span} axis
 * @param {number} most
 * @returns {number}
 */
export function stepOf({ from, to }, most = PLACES) {
  return STEPS.find((step) => (to - from) / step <= most) ?? STEPS[STEPS.length - 1];
}

/**
 * The place on the grid of an axis that is next to a time.
 *
 * @param {number} at
 * @param {Span} axis
 * @returns {number}
 */
export function snapped(at, axis) {
  const step = stepOf(axis);
  return Math.round(at / step) * step;
}

/**
 * The range between two places, in any order. It is at least one step long.
 *
 * @param {number} one
 * @param {number} other
 * @param {Span} axis
 * @returns {Span}
 */
export function rangeBetween(one, other, axis) {
  const [from, to] = [snapped(Math.min(one, other), axis), snapped(Math.max(one, other), axis)];
  return { from, to: Math.max(to, from + stepOf(axis)) };
}

/**
 * The range after a key moved one of its ends; null if the key moves nothing. The ends do not pass each other.
 *
 * @param {Span} range
 * @param {"from" | "to"} end
 * @param {{ key: string, isFar: boolean }} pressed
 * @param {Span} axis
 * @returns {Span | null}
 */
export function movedRange(range, end, { key, isFar }, axis) {
  const step = stepOf(axis);
  const length = step * (isFar ? MANY : 1);
  /** @type {Record<string, number>} */
  const places = {
    ArrowLeft: range[end] - length, ArrowDown: range[end] - length, ArrowRight: range[end] + length,
    ArrowUp: range[end] + length, PageDown: range[end] - step * MANY, PageUp: range[end] + step * MANY,
    Home: axis.from, End: axis.to,
  };
  if (!Object.hasOwn(places, key)) return null;
  const at = snapped(places[key], axis);
  return end === "from"
    ? { from: Math.min(at, range.to - step), to: range.to }
    : { from: range.from, to: Math.max(at, range.from + step) };
}

/**
 * Places for labels on an axis, at round times, with their texts. The first one, and the first of each day, has the
 * day.
 *
 * @param {Span} axis
 * @param {number} most
 * @returns {{ at: number, text: string }[]}
 */
export function timeTicks(axis, most) {
  const step = stepOf(axis, most);
  const found = [];
  let day = "";
  for (let at = Math.ceil(axis.from / step) * step; at <= axis.to; at += step) {
    const iso = new Date(at).toISOString();
    const [date, time] = [iso.slice(0, 10), iso.slice(11, step < MINUTE ? 19 : 16)];
    const text = step >= DAY ? date : date === day ? time : `${date} ${time}`;
    day = date;
    found.push({ at, text });
  }
  return found;
}
