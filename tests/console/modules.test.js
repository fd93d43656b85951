// Owns the test of how the console's modules are put together: layers, no circles, and no browser needed to load them.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, relative, sep } from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

const TESTS = dirname(fileURLToPath(import.meta.url));
const ASSETS = join(TESTS, "../../src/server/console/assets");

/** From the top. A module may import from the folders below its own, and from its own. */
const LAYERS = [["."], ["jobs", "tables", "runs", "query"], ["chart"], ["page"], ["server"], ["vendor"], ["pure"]];

/** Modules that others have written. */
const BUNDLED = ["vendor/codemirror.js"];

const MODULES = readdirSync(ASSETS, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith(".js"))
  .map((entry) => relative(ASSETS, join(entry.parentPath, entry.name)).split(sep).join("/"));

/** @type {Map<string, string>} */
const TEXTS = new Map(MODULES.map((module) => [module, readFileSync(join(ASSETS, module), "utf8")]));

/**
 * The modules that one imports, or takes types from.
 *
 * @param {string} module
 * @returns {string[]}
 */
function imports(module) {
  const found = (TEXTS.get(module) ?? "").matchAll(/^(?:import |\} from |\/\*\* @import ).*?"([^"]+)"/gm);
  return [...found].map(([, from]) => posix.join(posix.dirname(module), from));
}

/** @param {string} module */
function layer(module) {
  const at = LAYERS.findIndex((folders) => folders.includes(posix.dirname(module)));
  assert.ok(at >= 0, `${module} stands in no layer`);
  return at;
}

test("the modules are found", () => {
  assert.ok(MODULES.includes("app.js"));
  assert.ok(imports("app.js").includes("page/dom.js"));
  assert.ok(imports("pure/rates.js").includes("pure/wire.js"), "imports of types count");
  const all = new Set(MODULES.flatMap(imports));
  assert.deepEqual([...all].filter((module) => !TEXTS.has(module)), [], "imported and not there");
  assert.deepEqual(MODULES.filter((module) => !all.has(module)), ["app.js"], "there and not imported");
});

test("imports go down", () => {
  const wrong = MODULES.flatMap((module) => imports(module)
    .filter((other) => posix.dirname(other) !== posix.dirname(module) && layer(other) <= layer(module))
    .map((other) => `${module} imports ${other}`));
  assert.deepEqual(wrong, []);
});

test("imports have no circles", () => {
  /** @type {Set<string>} */
  const done = new Set();
  /**
   * @param {string} module
   * @param {string[]} above
   */
  const visit = (module, above) => {
    assert.ok(!above.includes(module), [...above, module].join(" imports "));
    if (done.has(module)) return;
    for (const other of imports(module)) visit(other, [...above, module]);
    done.add(module);
  };
  for (const module of MODULES) visit(module, []);
});

test("lines have at most 120 characters", () => {
  const own = MODULES.filter((module) => !BUNDLED.includes(module));
  const wrong = own.flatMap((module) => (TEXTS.get(module) ?? "").split("\n")
    .flatMap((line, at) => (line.length > 120 ? [`${module}:${at + 1}`] : [])));
  assert.deepEqual(wrong, []);
});

test("each module says what it owns", () => {
  assert.deepEqual(MODULES.filter((module) => !TEXTS.get(module)?.startsWith("// Owns ")), []);
});

test("loading a module does nothing to the page", async () => {
  for (const module of MODULES) {
    if (module !== "app.js") await import(pathToFileURL(join(ASSETS, module)).href);
  }
});

test("the bundled editor has the versions of the lock file, and names its licences", () => {
  const { packages } = JSON.parse(readFileSync(join(TESTS, "package-lock.json"), "utf8"));
  const licences = readFileSync(join(ASSETS, "vendor/codemirror.licence.txt"), "utf8");
  const named = [...(TEXTS.get("vendor/codemirror.js") ?? "").matchAll(/^\/\/ (\S+) (\d+\.\d+\.\d+)$/gm)];
  assert.ok(named.some(([, name]) => name === "@codemirror/view"), "the bundle names its packages");
  for (const [, name, version] of named) {
    assert.equal(version, packages[`node_modules/${name}`].version, name);
    assert.equal(packages[`node_modules/${name}`].license, "MIT", name);
    assert.ok(licences.includes(`${name} ${version}\n`), `${name} has its licence`);
  }
});
