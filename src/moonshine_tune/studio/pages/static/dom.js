// Elements from plain values. Text becomes text nodes, so no value of a project is ever markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** An element: `h("p", {class: "note", onclick: f}, "text", other)`. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An element of SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Replaces what an element holds. */
export function put(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** A button with a name and what it does. */
export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", ...attributes, onclick }, text);
}

/** Leaves the space bar to a handler of its own: Firefox also clicks when the key is let go. */
export function withoutSpaceClick(control) {
  control.addEventListener("keyup", (event) => { if (event.key === " ") event.preventDefault(); });
  return control;
}

/** A key as the help shows it. */
export const key = (name) => h("kbd", {}, name);

/** Says a sentence to those who do not see the page. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** Shows a message above the view until it is closed, or until the next of the same name. */
export function notice(name, kind, message, ...more) {
  closeNotice(name);
  const box = h("div", { class: `notice ${kind}`, "data-name": name, role: kind === "bad" ? "alert" : null },
    h("div", {}, h("p", {}, message), more),
    button("✕", () => box.remove(), { class: "close", "aria-label": "Close this message" }));
  document.getElementById("notices").append(box);
  return box;
}

export function closeNotice(name) {
  for (const box of document.querySelectorAll(".notice")) if (box.dataset.name === name) box.remove();
}

/** Shows an error of the server: what happened, and what to do next. */
export function noticeError(name, error) {
  return notice(name, "bad", error.message, error.next ? h("p", { class: "what-next" }, error.next) : null);
}

/** 4.2 s, 12 min, 1.5 h. */
export function duration(seconds) {
  if (seconds === undefined || seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** "1 clip", "3 clips". */
export const count = (number, noun, plural = `${noun}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;

/** Where keys belong to what has the focus: text that is typed, a list that is open. */
export const isTyping = (target) => target instanceof Element
  && (target.matches("input:not([type=checkbox], [type=radio], [type=file]), textarea, select")
    || target.isContentEditable);
