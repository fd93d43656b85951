// Tables and views: their columns, and how they were made.

import { get, objects, path } from "./api.js";
import { announce, el, keyed, problem, setAttribute, setText } from "./dom.js";
import { plural } from "./format.js";
import { grid } from "./grid.js";
import { writeQuery } from "./query.js";

/** The view; `chosen` is the table that is shown, if one is. */
export function tablesView(root, chosen) {
  const list = el("ul", { class: "list" });
  const summary = el("p", { class: "summary" });
  const none = el("p", { class: "empty", hidden: true, text: "There are no tables. CREATE EXTERNAL TABLE makes one." });
  const shown = el("section", { class: "shown" });
  root.append(
    el("div", { class: "heading" }, el("h1", { text: "Tables" }), summary),
    el("div", { class: "sides" }, el("nav", { "aria-label": "Tables" }, list, none), shown));
  if (chosen === null) shown.append(el("p", { class: "empty", text: "Choose a table to see its columns." }));
  else showTable(shown, chosen);
  return {
    async refresh() {
      const tables = objects(await get("/tables"));
      none.hidden = tables.length > 0;
      setText(summary, tables.length ? plural(tables.length, "table or view", "tables and views") : "");
      keyed(list, tables, (table) => table.table_name,
        (table) => el("li", {},
          el("a", { href: `#/tables${path(table.table_name)}` },
            el("span", { class: "name", text: table.table_name }), el("span", { class: "kind" }))),
        (item, table) => {
          setText(item.querySelector(".kind"), table.kind ?? "");
          setAttribute(item.firstElementChild, "aria-current", table.table_name === chosen ? "page" : null);
        });
    },
  };
}

async function showTable(shown, name) {
  const columns = el("div", {}, el("p", { class: "empty", text: "reading…" }));
  const definition = el("div", {});
  shown.append(
    el("div", { class: "heading" },
      el("h2", { text: name }),
      el("div", { class: "buttons" },
        el("button", { type: "button", text: "Query", on: { click: () => writeQuery(`SELECT * FROM ${quoted(name)} LIMIT 100`) } }))),
    columns, definition);
  const below = `/tables${path(name)}`;
  // A table that cannot be opened now can still be shown.
  await Promise.all([
    put(columns, async () => grid(await get(`${below}/columns`), { label: `Columns of ${name}`, hasTypes: false })),
    put(definition, async () => code((await get(`${below}/definition`)).definition)),
  ]);
}

async function put(place, make) {
  try {
    place.replaceChildren(await make());
  } catch (error) {
    place.replaceChildren(problem(error));
  }
}

function code(text) {
  const copy = el("button", { type: "button", class: "quiet", text: "Copy", on: {
    async click() {
      try {
        await navigator.clipboard.writeText(text);
        announce("copied");
      } catch {
        announce("the browser does not let it be copied", true);
      }
    },
  } });
  return el("div", {},
    el("div", { class: "heading" }, el("h3", { text: "Definition" }), el("div", { class: "buttons" }, copy)),
    el("pre", { class: "code", tabindex: "0", text }));
}

/** A name as SQL takes it literally. */
const quoted = (name) => `"${name.replaceAll('"', '""')}"`;
