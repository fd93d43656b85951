// Owns the addresses of the views: which view the part of the address behind # stands for.

/** @typedef {"jobs" | "tables" | "runs" | "reprocess" | "query"} ViewName */

/** The titles of the views. */
export const TITLES = { jobs: "Jobs", tables: "Tables", runs: "Runs", reprocess: "Reprocess", query: "Query" };

/**
 * The entry of the navigation that a view belongs to.
 *
 * @param {ViewName} view
 * @returns {string}
 */
export function entryOf(view) {
  return view === "reprocess" ? "runs" : view;
}

/**
 * The view of an address, and the job or table that is chosen in it. Null for anchors, which are places in the page.
 *
 * @param {string} hash
 * @returns {{ view: ViewName, chosen: string | null } | null}
 */
export function parseRoute(hash) {
  if (hash && !hash.startsWith("#/")) return null;
  const [name, ...rest] = hash.replace(/^#\/?/, "").split("/");
  return { view: isView(name) ? name : "jobs", chosen: rest.length > 0 ? decoded(rest.join("/")) : null };
}

/**
 * A path of names, each as one part.
 *
 * @param {...string} parts
 * @returns {string}
 */
export function path(...parts) {
  return parts.map((part) => `/${encodeURIComponent(part)}`).join("");
}

/**
 * @param {string} name
 * @returns {name is ViewName}
 */
function isView(name) {
  return Object.hasOwn(TITLES, name);
}

/**
 * @param {string} part
 * @returns {string}
 */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
