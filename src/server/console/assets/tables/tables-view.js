// Owns the list of tables and views, beside the one that is chosen.

import { el, keyed, setAttribute, setText, within } from "../page/dom.js";
import { plural } from "../pure/format.js";
import { path } from "../pure/route.js";
import { objects } from "../pure/wire.js";
import { get } from "../server/api.js";
import { showTable } from "./table-details.js";

/** @import { View } from "../page/view.js" */
/** @import { TableEntry } from "../pure/wire.js" */

const NO_TABLES = "There are no tables. CREATE EXTERNAL TABLE makes one.";

/**
 * @param {HTMLElement} root
 * @param {string | null} chosen the table whose columns are shown
 * @param {(sql: string) => void} openQuery opens the editor with a statement
 * @returns {View}
 */
export function tablesView(root, chosen, openQuery) {
  const list = el("ul", { class: "list" });
  const summary = el("p", { class: "summary" });
  const none = el("p", { class: "empty", hidden: true, text: NO_TABLES });
  const shown = el("section", { class: "shown" });
  root.append(
    el("div", { class: "heading" }, el("h1", { text: "Tables" }), summary),
    el("div", { class: "sides" }, el("nav", { "aria-label": "Tables" }, list, none), shown));
  if (chosen === null) shown.append(el("p", { class: "empty", text: "Choose a table to see its columns." }));
  else showTable(shown, chosen, openQuery);
  return {
    async refresh() {
      /** @type {TableEntry[]} */
      const tables = /** @type {any[]} */ (objects(await get("/tables")));
      none.hidden = tables.length > 0;
      setText(summary, tables.length ? plural(tables.length, "table or view", "tables and views") : "");
      keyed(list, tables, (table) => table.table_name, makeItem, (item, table) => {
        setText(within(item, ".kind"), table.kind ?? "");
        setAttribute(within(item, "a"), "aria-current", table.table_name === chosen ? "page" : null);
      });
    },
  };
}

/**
 * @param {TableEntry} table
 * @returns {HTMLElement}
 */
function makeItem(table) {
  return el("li", {},
    el("a", { href: `#/tables${path(table.table_name)}` },
      el("span", { class: "name", text: table.table_name }), el("span", { class: "kind" })));
}
