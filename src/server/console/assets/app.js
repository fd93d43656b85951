// Owns the page as a whole: shows the view of the address, and keeps it fresh.

import { jobView } from "./jobs/job-view.js";
import { jobsView } from "./jobs/jobs-view.js";
import { Connection } from "./page/connection.js";
import { byId, setAttribute } from "./page/dom.js";
import { logIn } from "./page/login.js";
import { refreshLoop } from "./pure/refresh-loop.js";
import { entryOf, parseRoute, TITLES } from "./pure/route.js";
import { queryView, writeQuery } from "./query/query-view.js";
import { reprocessView } from "./runs/reprocess-view.js";
import { runView } from "./runs/run-view.js";
import { runsView } from "./runs/runs-view.js";
import { onLogin } from "./server/api.js";
import { tablesView } from "./tables/tables-view.js";

/** @import { View } from "./page/view.js" */
/** @import { ViewName } from "./pure/route.js" */

const main = byId("main", HTMLElement);
const connection = new Connection();
/** @type {View | null} */
let view = null;

const look = refreshLoop({
  refresh: async () => view?.refresh(),
  succeeded: () => connection.succeeded(),
  failed: (error) => connection.failed(error),
  isHidden: () => document.hidden,
  isGone: () => connection.isGone,
  now: () => performance.now(),
  later: (action, milliseconds) => {
    const timer = setTimeout(action, milliseconds);
    return () => clearTimeout(timer);
  },
});

onLogin(async () => {
  await logIn();
  await connection.showUser();
});
window.addEventListener("hashchange", showView);
document.addEventListener("visibilitychange", look);
showView();
connection.showUser().catch(() => {});

/**
 * Shows the view of the address.
 *
 * @returns {void}
 */
function showView() {
  const route = parseRoute(location.hash);
  if (!route) return;
  document.title = `${route.chosen ?? TITLES[route.view]} – Anabranch`;
  for (const link of document.querySelectorAll("[data-view]")) {
    const isCurrent = link.getAttribute("data-view") === entryOf(route.view);
    setAttribute(link, "aria-current", isCurrent ? "page" : null);
  }
  const isFirst = view === null;
  main.replaceChildren();
  view = viewOf(route);
  // With the keyboard, reading begins at the new view.
  if (!isFirst && route.view !== "query") main.focus({ preventScroll: true });
  scrollTo(0, 0);
  look();
}

/**
 * @param {{ view: ViewName, chosen: string | null }} route
 * @returns {View}
 */
function viewOf({ view: name, chosen }) {
  if (name === "query") return queryView(main);
  if (name === "tables") return tablesView(main, chosen, openQuery);
  if (name === "reprocess") return reprocessView(main, chosen, openQuery);
  if (name === "runs") return chosen === null ? runsView(main) : runView(main, chosen, look);
  return chosen === null ? jobsView(main) : jobView(main, chosen, look);
}

/**
 * Opens the query view with a statement.
 *
 * @param {string} sql
 * @returns {void}
 */
function openQuery(sql) {
  writeQuery(sql);
  location.hash = "#/query";
}
