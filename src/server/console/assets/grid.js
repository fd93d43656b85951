// A result as a table.

import { el } from "./dom.js";
import { bytes, cell } from "./format.js";

/** Longer cells are shown whole when they are asked for. */
const LONG = 200;

/** `showsBytes`: bytes that are text are shown as such; `hasTypes`: below the names. */
export function grid({ columns, rows }, { label, showsBytes = false, hasTypes = true } = {}) {
  const head = columns.map((column) =>
    el("th", { scope: "col", class: column.is_number ? "number" : null },
      el("span", { class: "name", text: column.name }),
      hasTypes ? el("span", { class: "type", text: column.type }) : null));
  const body = rows.map((row) => el("tr", {}, ...row.map((value, at) => dataCell(value, columns[at], showsBytes))));
  return el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" },
    el("table", { class: "grid" },
      el("thead", {}, el("tr", {}, ...head)),
      el("tbody", {}, ...body)));
}

function dataCell(value, column, showsBytes) {
  if (value === null) return el("td", { class: "null", text: "NULL" });
  const shown = showsBytes && column.type === "BINARY" ? bytes(value) : value;
  const text = cell(shown, column.type);
  const of = column.is_number ? "number" : null;
  if (text.length <= LONG) return el("td", { class: of, text });
  const whole = el("details", { class: "long" }, el("summary", { text: `${text.slice(0, LONG)}…` }));
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.children.length === 1) whole.append(el("pre", { text }));
  });
  return el("td", { class: of }, whole);
}
