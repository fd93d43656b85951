// Owns the frame of a chart: plain SVG, coloured by classes, with its axes.

import { el, svg } from "../page/dom.js";
import { compact, shortened } from "../pure/format.js";
import { linear, ticks } from "../pure/scale.js";

/** Pixels around the drawing. */
export const LEFT = 52;
export const RIGHT = 12;
export const TOP = 10;
export const BOTTOM = 24;

/** The longest name below an axis, in characters. */
const LONGEST = 13;

/**
 * A chart of a size in pixels, with a label for screen readers.
 *
 * @param {number} width
 * @param {number} height
 * @param {string} label
 * @returns {SVGSVGElement}
 */
export function frame(width, height, label) {
  const viewBox = `0 0 ${width} ${height}`;
  return svg("svg", { class: "chart", width, height, viewBox, role: "img", "aria-label": label });
}

/**
 * Draws the axis of y; gives the place of a value on it.
 *
 * @param {SVGSVGElement} chart
 * @param {number} width
 * @param {number} height
 * @param {number} low
 * @param {number} high
 * @returns {(value: number) => number}
 */
export function axisY(chart, width, height, low, high) {
  const scale = linear(low, high, height - BOTTOM, TOP);
  for (const tick of ticks(low, high)) {
    const y = scale(tick);
    chart.append(
      svg("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
      svg("text", { class: "label", x: LEFT - 6, y: y + 4, "text-anchor": "end", text: compact(tick) }));
  }
  return scale;
}

/**
 * Writes names below the axis of x, as many as there is room for.
 *
 * @param {SVGSVGElement} chart
 * @param {number} width
 * @param {number} height
 * @param {string[]} names
 * @param {(at: number) => number} x the place of a name
 * @returns {void}
 */
export function axisX(chart, width, height, names, x) {
  const longest = Math.min(LONGEST, Math.max(...names.map((name) => name.length)));
  const room = (width - LEFT - RIGHT) / (longest * 7 + 16);
  const every = Math.max(1, Math.ceil(names.length / room));
  names.forEach((name, at) => {
    if (at % every !== 0) return;
    const text = shortened(name, LONGEST);
    const label = svg("text", { class: "label", x: x(at), y: height - 7, "text-anchor": "middle", text });
    label.append(svg("title", { text: name }));
    chart.append(label);
  });
}

/**
 * What the colours stand for.
 *
 * @param {string[]} names
 * @returns {HTMLElement}
 */
export function legend(names) {
  return el("p", { class: "legend" },
    ...names.map((name, number) => el("span", { class: `key series-${number}`, text: name })));
}
