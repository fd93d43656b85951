// Owns the rules that the console's scripts keep beside their types: against mistakes, against data as markup, and which
// modules each folder may use.

import js from "@eslint/js";
import globals from "globals";

const ASSETS = "src/server/console/assets";

/** Data is put into the page as text only. */
const MARKUP = ["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe", "srcdoc", "parseFromString"].map(
  (property) => ({ property, message: "Data is text: make elements with el of page/dom.js." }));

export default [
  // Bundled from packages of others.
  { ignores: [`${ASSETS}/vendor/*.js`] },
  js.configs.recommended,
  {
    rules: {
      "eqeqeq": "error",
      "no-unused-vars": "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-console": "error",
      "no-shadow": "error",
      "no-implicit-globals": "error",
      "max-lines": ["error", { max: 200 }],
    },
  },
  {
    files: [`${ASSETS}/**/*.js`],
    languageOptions: { globals: globals.browser },
    rules: {
      "no-restricted-properties": ["error", ...MARKUP],
      "no-restricted-globals": [
        "error",
        { name: "event", message: "Take the event from the listener." },
        { name: "name", message: "This is the name of the window." },
        { name: "status", message: "This is the status of the window." },
        { name: "fetch", message: "Only server/api.js asks the server." },
        { name: "localStorage", message: "Only page/storage.js keeps something in the browser." },
      ],
    },
  },
  {
    files: [`${ASSETS}/server/api.js`, `${ASSETS}/page/storage.js`],
    rules: { "no-restricted-globals": "off" },
  },
  {
    // No page, no network, no clock: with no other globals, no-undef finds them.
    files: [`${ASSETS}/pure/*.js`],
    languageOptions: {
      globals: {
        ...Object.fromEntries(Object.keys(globals.browser).map((name) => [name, "off"])),
        TextDecoder: "readonly",
      },
    },
  },
  {
    files: ["tests/console/*.js"],
    languageOptions: { globals: globals.node },
  },
];
