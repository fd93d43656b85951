// Owns how elements are made and changed: without markup, so that data is always text.

/**
 * Attributes of an element; `on` has listeners, `text` the text. An attribute that is null or false is left out.
 *
 * @typedef {{
 *   on?: Record<string, (event: Event) => void>, text?: string,
 *   [attribute: string]: string | number | boolean | null | undefined | object,
 * }} Props
 */
/** @typedef {Node | string | null | undefined} Child */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element of HTML.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Props} props
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/**
 * Makes an element of SVG.
 *
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Props} props
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

/**
 * @template {Element} E
 * @param {E} node
 * @param {Props} props
 * @param {Child[]} children
 * @returns {E}
 */
function filled(node, { on = {}, text, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  if (text !== undefined) node.textContent = text;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/**
 * Changes an attribute only if its value differs, so that the browser does not draw or say it again.
 *
 * @param {Element} node
 * @param {string} name
 * @param {unknown} value null and false remove it
 * @returns {void}
 */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : String(value));
}

/**
 * Changes the text of a node only if it differs.
 *
 * @param {Node} node
 * @param {string} text
 * @returns {void}
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * The element of the page with a name, which index.html has.
 *
 * @template {HTMLElement} E
 * @param {string} id
 * @param {new () => E} type
 * @returns {E}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} named ${id}`);
  return found;
}

/**
 * The first element within another that a selector fits. The caller has put it there.
 *
 * @param {Element} root
 * @param {string} selector
 * @returns {HTMLElement}
 */
export function within(root, selector) {
  const found = root.querySelector(selector);
  if (!(found instanceof HTMLElement)) throw new Error(`there is no ${selector} in it`);
  return found;
}

/**
 * Makes the children of `parent` those of `items`. Elements of items that stay are kept, and with them the focus.
 *
 * @template T
 * @param {Element} parent
 * @param {readonly T[]} items
 * @param {(item: T) => string} key
 * @param {(item: T) => HTMLElement} create
 * @param {(child: HTMLElement, item: T) => void} update
 * @returns {void}
 */
export function keyed(parent, items, key, create, update) {
  const children = /** @type {HTMLElement[]} */ ([...parent.children]);
  const before = new Map(children.map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = before.get(name);
    before.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    if (at !== null && child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of before.values()) child.remove();
}
