// Owns the points of a chart of two columns of a result: their values, their order, and the text for them.

import { cell } from "./cell.js";

/** @import { Column, Rows, Value } from "./wire.js" */

/**
 * A point. `at` is its place on the axis of x.
 *
 * @typedef {{ x: Value, y: number }} Point
 * @typedef {Point & { at: number }} PlacedPoint
 */

/**
 * Whether a column has times.
 *
 * @param {Column} column
 * @returns {boolean}
 */
export function isTime(column) {
  return column.type.startsWith("TIMESTAMP") || column.type === "DATE";
}

/**
 * The points of the columns number `x` and `y`, in the order of the rows; rows without a finite y have none.
 *
 * @param {Rows} result
 * @param {number} x
 * @param {number} y
 * @returns {Point[]}
 */
export function pointsOf({ rows }, x, y) {
  return rows.map((row) => ({ x: row[x], y: toNumber(row[y]) })).filter((point) => Number.isFinite(point.y));
}

/**
 * The points in the order of x where all of these are numbers or times, else in their own order at even distances.
 *
 * @param {Point[]} points
 * @param {Column} column of x
 * @returns {PlacedPoint[]}
 */
export function placedPoints(points, column) {
  const place = isTime(column) ? (/** @type {Value} */ value) => Date.parse(String(value)) : toNumber;
  const has = points.every((point) => Number.isFinite(place(point.x)));
  const placed = points.map((point, at) => ({ ...point, at: has ? place(point.x) : at }));
  return placed.sort((one, other) => one.at - other.at);
}

/**
 * What a point says.
 *
 * @param {Point} point
 * @param {Column} column of x
 * @returns {string}
 */
export function describePoint(point, column) {
  return `${cell(point.x, column.type)}: ${point.y}`;
}

/**
 * A function that names a point on the axis. If all the times are of one day, the day is left out.
 *
 * @param {Point[]} points
 * @param {Column} column of x
 * @returns {(point: Point) => string}
 */
export function axisLabel(points, column) {
  const day = (/** @type {Point} */ point) => String(point.x).slice(0, 10);
  const isOneDay = column.type.startsWith("TIMESTAMP") && points.every((point) => day(point) === day(points[0]));
  return (point) => cell(point.x, column.type).slice(isOneDay ? 11 : 0);
}

/**
 * The number that a value is, or NaN.
 *
 * @param {Value} value
 * @returns {number}
 */
export function toNumber(value) {
  if (typeof value === "number") return value;
  if (typeof value !== "string" || value === "") return NaN;
  return Number(value);
}
