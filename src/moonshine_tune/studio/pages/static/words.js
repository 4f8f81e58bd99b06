// Words with their confidence, and alignments with their mistakes.

import { h } from "./dom.js";

const SURE = 0.85;
const DOUBTFUL = 0.5;

const kindOf = (confidence) => (confidence === null || confidence === undefined || confidence >= SURE ? "sure"
  : confidence >= DOUBTFUL ? "unsure" : "doubtful");

/**
 * The words of a transcript as one stop of the Tab key; arrow keys walk, Enter or a click plays.
 *
 * @param words `{word, start_s, end_s, confidence}` of each
 * @param onword called with the word that is chosen
 */
export function confidenceWords(words, onword) {
  const items = words.map((word, index) => h("button", {
    type: "button",
    class: `word ${kindOf(word.confidence)}`,
    tabindex: index ? -1 : 0,
    "data-start": word.start_s,
    "data-end": word.end_s,
    title: `${Math.round((word.confidence ?? 1) * 100)} % sure: play from here`,
    onclick: () => onword(word),
  }, word.word));
  const box = h("div", { class: "words-line", role: "group", "aria-label": "The model's words; press one to play from there", dir: "auto" });
  items.forEach((item, index) => box.append(index ? " " : "", item));
  box.addEventListener("keydown", (event) => {
    const at = items.indexOf(event.target);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (next === undefined || !items[next]) return;
    event.preventDefault();
    items[at].tabIndex = -1;
    items[next].tabIndex = 0;
    items[next].focus();
  });
  return box;
}

/** Marks the word that sounds. */
export function markNow(box, seconds, isPlaying) {
  for (const item of box.querySelectorAll(".word")) {
    item.classList.toggle("now", isPlaying && seconds >= Number(item.dataset.start) && seconds < Number(item.dataset.end));
  }
}

/** Where doubtful words are in a text: `[start, end]` of each, found by their spelling in order. */
export function doubtfulRanges(text, words) {
  const ranges = [];
  const lower = text.toLowerCase();
  let from = 0;
  for (const { word, confidence } of words) {
    const bare = word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
    const at = bare ? lower.indexOf(bare, from) : -1;
    if (at < 0) continue;
    from = at + bare.length;
    if (kindOf(confidence) !== "sure") ranges.push([at, from]);
  }
  return ranges;
}

/** An aligned hypothesis, as the report shows it: replaced, missing and added words. */
export function alignedWords(diff) {
  return h("p", { class: "words", dir: "auto" }, diff.map((part) => [token(part), " "]));
}

function token({ op, ref, hyp }) {
  if (op === "substituted") return h("span", { class: "w sub" }, h("ins", {}, hyp), h("del", {}, ref));
  if (op === "deleted") return h("span", { class: "w gone" }, h("del", {}, ref));
  if (op === "inserted") return h("span", { class: "w extra" }, h("ins", {}, hyp));
  return h("span", { class: "w" }, hyp);
}

/** What the marks of an alignment mean. */
export function alignmentLegend() {
  return h("p", { class: "legend" },
    h("span", { class: "w sub" }, h("ins", {}, "written"), h("del", {}, "spoken")), " replaced ",
    h("span", { class: "w gone" }, h("del", {}, "word")), " missing ",
    h("span", { class: "w extra" }, h("ins", {}, "word")), " added");
}
