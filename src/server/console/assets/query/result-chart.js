// Owns the chart of a result: two of its columns, which the user chooses.

import { plot } from "../chart/plot.js";
import { el } from "../page/dom.js";
import { closedPart } from "../page/view.js";
import { firstChart } from "../pure/result.js";

/** @import { Rows } from "../pure/wire.js" */

/**
 * The chart, which is drawn when it is opened; null if no column has numbers.
 *
 * @param {Rows} result
 * @returns {HTMLElement | null}
 */
export function resultChart(result) {
  const first = firstChart(result.columns);
  if (!first) return null;
  const all = result.columns.map((column, at) => ({ ...column, at }));
  const kind = choice("chart-kind", [["line", "Line"], ["bar", "Bars"]], first.isLine ? "line" : "bar");
  const x = choice("chart-x", all.map(({ at, name }) => [String(at), name]), String(first.x));
  const numbers = all.filter((column) => column.is_number);
  const y = choice("chart-y", numbers.map(({ at, name }) => [String(at), name]), String(first.y));
  const place = el("figure", {});
  const draw = () => {
    const width = Math.max(240, place.clientWidth - 24);
    const drawn = plot(result, { width, isLine: kind.value === "line", x: Number(x.value), y: Number(y.value) });
    place.replaceChildren(drawn ?? el("p", { class: "empty", text: "There is no number in this column." }));
  };
  const details = closedPart("Chart",
    el("div", { class: "bar" },
      el("label", { for: "chart-kind", text: "Kind" }), kind,
      el("label", { for: "chart-x", text: "x" }), x,
      el("label", { for: "chart-y", text: "y" }), y),
    place);
  for (const one of [kind, x, y]) one.addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (details.open && contentRect.width !== width) draw();
    width = contentRect.width;
  }).observe(place);
  return details;
}

/**
 * A list of values, each with its text, of which one is chosen.
 *
 * @param {string} id
 * @param {string[][]} options
 * @param {string} chosen
 * @returns {HTMLSelectElement}
 */
function choice(id, options, chosen) {
  const made = el("select", { id }, ...options.map(([value, text]) => el("option", { value, text })));
  made.value = chosen;
  return made;
}
