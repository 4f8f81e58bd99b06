// One page: the view that the address names, the header that says what to do next.

import { onEvent, openEvents } from "./api.js";
import { closeNotice, count, duration, notice, noticeError, put } from "./dom.js";
import { openLabel } from "./label.js";
import { openRecord } from "./record.js";
import { openResults } from "./results.js";
import { openSettings } from "./settings.js";
import { project, refreshProject, setProject, watchProject } from "./state.js";
import { openTrain } from "./train.js";

const VIEWS = { record: openRecord, label: openLabel, train: openTrain, results: openResults };
const TITLES = { record: "Record", label: "Label", train: "Train", results: "Results" };
// Fewer recordings than these are rather added to than trained on.
const ENOUGH = 20;

let view;

/** What to do next, and where. */
function nextStep({ prompts, prompts_left: left, accepted, unlabelled, runs }) {
  if (unlabelled) return [`Label ${count(unlabelled, "recording")}`, "label"];
  if (left) return [`Read ${count(left, "sentence")} aloud`, "record"];
  if (!accepted && !prompts) return ["Add sentences to read, or drop recordings", "record"];
  if (accepted < ENOUGH && !runs) return ["Add more sentences", "record"];
  if (!runs) return [`Train on ${count(accepted, "recording")}`, "train"];
  return ["Try what it learned", "results"];
}

function showProject(now) {
  const { name, model, counts, speaker } = now;
  document.getElementById("strip").hidden = false;
  put(document.getElementById("project-line"), [name, model, speaker, counts.accepted ? `${count(counts.accepted, "recording")}, ${duration(counts.accepted_s)}` : "no recordings yet"].filter(Boolean).join(" · "));
  const [text, where] = nextStep(counts);
  const link = document.getElementById("next-step");
  link.hidden = location.hash.split("/")[1] === where;
  link.href = `#/${where}`;
  put(link, text, " →");
  const badge = document.getElementById("label-count");
  badge.hidden = !counts.unlabelled;
  badge.textContent = counts.unlabelled || "";
}

function decoded(part = "") {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

async function route() {
  const [, wanted, detail] = location.hash.split("/");
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "record";
  view?.close();
  for (const link of document.querySelectorAll(".steps a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[name]} · ${project()?.name ?? "Studio"} · moonshine-tune`;
  document.getElementById("notices").replaceChildren();
  const main = document.getElementById("main");
  main.replaceChildren();
  main.dataset.view = name;
  document.documentElement.dataset.ready = "false";
  view = await VIEWS[name](main, decoded(detail));
  if (project()) showProject(project());
  const opened = view;
  await view.shown;
  if (opened === view) document.documentElement.dataset.ready = "true";
}

function listen() {
  let wasLost = false;
  onEvent((event) => {
    if (event.project) setProject(event.project);
    if (event.connected === false && !wasLost) {
      wasLost = true;
      notice("connection", "bad", "The studio does not answer. Recordings that you make now are kept in this browser until it does.");
    }
    if (event.connected && wasLost) {
      wasLost = false;
      closeNotice("connection");
      refreshProject().catch(() => {});
    }
    view?.onEvent(event);
  });
  openEvents();
}

watchProject(showProject);
document.getElementById("open-settings").addEventListener("click", () => { if (project()) openSettings(document.getElementById("settings")); });
// A file beside the drop area must not take the page away.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
window.addEventListener("hashchange", route);
try {
  await refreshProject();
  listen();
  await route();
} catch (error) {
  noticeError("start", error);
}
