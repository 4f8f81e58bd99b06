// What all views share: the project as the server last told it, and choices of this browser.

import { get } from "./api.js";

let current = null;
const watchers = new Set();

/** The project as `GET /api/project` answers. */
export const project = () => current;

let asked = 0;
let answered = 0;

/** Asks for it; an answer that comes after that of a later question is left out. */
export async function refreshProject() {
  asked += 1;
  const question = asked;
  const value = await get("/api/project");
  if (question > answered) {
    answered = question;
    setProject(value);
  }
  return current;
}

export function setProject(value) {
  current = value;
  for (const watcher of watchers) watcher(value);
}

export const watchProject = (watcher) => watchers.add(watcher);

/** A choice that this browser remembers; without storage it lasts as long as the page. */
export function preference(name, initial) {
  if (name in chosen) return chosen[name];
  try {
    const text = localStorage.getItem(`studio-${name}`);
    return text === null ? initial : JSON.parse(text);
  } catch {
    return initial;
  }
}

const chosen = {};
preference.set = (name, value) => {
  chosen[name] = value;
  try {
    localStorage.setItem(`studio-${name}`, JSON.stringify(value));
  } catch { /* no storage here */ }
};
