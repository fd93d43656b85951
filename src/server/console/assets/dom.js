// Elements, made and changed without markup: whatever the data says, it is text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: attributes; `on` has listeners, `text` the text. */
export function el(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same of SVG. */
export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(node, { on = {}, text, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  if (text !== undefined) node.textContent = text;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Changes an attribute only if it is another: what is looked at stays still. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** The same for the text. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Makes the children of `parent` those of `items`; elements of items that stay are kept, and with them the focus. */
export function keyed(parent, items, key, create, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = before.get(name);
    before.delete(name);
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of before.values()) child.remove();
}

let forgetting;

/** Says something to those who listen instead of look, where others see it anyway. */
export function tell(text) {
  const status = document.getElementById("status");
  status.classList.remove("shown");
  status.textContent = text;
}

/** Says something to all, for a while. */
export function announce(text, isError = false) {
  tell(text);
  const status = document.getElementById("status");
  status.classList.toggle("error", isError);
  status.classList.add("shown");
  clearTimeout(forgetting);
  forgetting = setTimeout(() => status.classList.remove("shown"), isError ? 12_000 : 6_000);
}

/** What went wrong, in a box. */
export function problem(error) {
  return el("div", { class: "problem", role: "alert" },
    el("p", { class: "message", text: error.message }),
    error.help ? el("p", { class: "help", text: error.help }) : null);
}
