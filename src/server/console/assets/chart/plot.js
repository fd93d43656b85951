// Owns the chart of two columns of a result.

import { pointsOf } from "../pure/points.js";
import { barChart } from "./bars.js";
import { lineChart } from "./line.js";

/** @import { Rows } from "../pure/wire.js" */

/** Pixels. */
const HEIGHT = 260;

/**
 * Draws column number `y` over column number `x`; null if there is nothing to draw.
 *
 * @param {Rows} result
 * @param {{ width: number, x: number, y: number, isLine: boolean }} options
 * @returns {SVGSVGElement | null}
 */
export function plot(result, { width, x, y, isLine }) {
  const points = pointsOf(result, x, y);
  if (points.length === 0) return null;
  const names = `${result.columns[y].name} by ${result.columns[x].name}`;
  const label = `${isLine ? "Line" : "Bars"}: ${names}, ${points.length} points`;
  const draw = isLine ? lineChart : barChart;
  return draw(points, result.columns[x], { width, height: HEIGHT, label });
}
