// Label: the model's words for dropped recordings, corrected and accepted, the least sure first.

import { follow, get, post, request } from "./api.js";
import { announce, button, closeNotice, count, duration, h, isTyping, key, notice, noticeError, put } from "./dom.js";
import { chosenFiles, droppedFiles } from "./drop.js";
import { isPlaying, onTime, play, stop } from "./player.js";
import { Spelling } from "./spelling.js";
import { preference, project, refreshProject } from "./state.js";
import { confidenceWords, doubtfulRanges, markNow } from "./words.js";

const PAGE = 50;

const HELP = [
  ["Enter", "accept, and go to the next"],
  ["Ctrl Enter", "play or stop"],
  ["Alt ↓ / Alt ↑", "select the next or previous doubtful word; typing replaces it"],
  ["PageDown / PageUp", "next or previous clip, without accepting"],
  ["Alt O", "the model's own spelling, and back"],
  ["Esc", "leave the text; the keys below then work"],
  ["↓ ↑ or J K", "walk through the list"],
  ["X", "select for speaker and session"],
  ["Delete", "throw the clip away"],
  ["Ctrl Z", "undo (in the text: undoes typing first)"],
  ["?", "show or hide this list"],
];

class LabelView {
  constructor(root) {
    this.root = root;
    this.clips = [];
    this.total = 0;
    this.shown = "unlabelled";
    this.selected = new Set();
    this.pairs = [];
    this.accepted = [];
    this.uploads = [];
    // How often the list was changed here; an answer from before a change is old.
    this.changes = 0;
    this.build();
  }

  build() {
    this.files = h("input", { type: "file", id: "files", multiple: true, class: "visually-hidden", onchange: () => this.add(chosenFiles(this.files.files)) });
    this.folder = h("input", { type: "file", id: "folder", webkitdirectory: true, class: "visually-hidden", tabindex: -1, "aria-label": "Choose a folder", onchange: () => this.add(chosenFiles(this.folder.files)) });
    this.drop = h("section", { class: "drop", "aria-label": "Add recordings" },
      h("p", {}, h("strong", {}, "Drop recordings or folders here"), h("span", { class: "quiet" }, " Any audio. Long ones are cut at pauses.")),
      h("p", { class: "quiet explained" }, "The model writes down what it understands. You correct what is wrong, and Enter accepts."),
      h("div", { class: "row" }, h("label", { class: "button", for: "files" }, "Choose files", this.files), button("Choose a folder", () => this.folder.click()), this.folder));
    this.uploadList = h("ul", { class: "uploads", "aria-label": "Recordings on their way" });
    this.effort = h("p", { class: "effort", id: "effort" });
    this.tabs = ["unlabelled", "accepted"].map((state) => button("", () => this.show(state), { class: "tab", "data-state": state }));
    this.list = h("ol", { class: "queue", "aria-label": "Clips" });
    this.more = button("Show more", () => this.loadMore(), { hidden: true });
    this.batch = h("form", { class: "batch", hidden: true, onsubmit: (event) => { event.preventDefault(); this.setMany(); } });
    this.all = button("Select all", () => this.selectAll(), { class: "ghost small" });
    this.editor = h("section", { class: "editor card-like", "aria-label": "The clip" });
    this.keys = h("details", { class: "keys" }, h("summary", {}, "Keys ", key("?")),
      h("dl", {}, HELP.map(([name, what]) => h("div", {}, h("dt", {}, name.split(/( \/ | or | )/u).map((part) => (part.trim() && !["/", "or"].includes(part.trim()) ? key(part) : part))), h("dd", {}, what)))));
    put(this.root, h("div", { class: "view-head" }, h("h1", {}, "Label"), this.effort),
      this.drop, this.uploadList,
      h("div", { class: "label-grid" },
        h("section", { class: "queue-box" },
          h("div", { class: "queue-head" }, h("div", { class: "tabs" }, this.tabs), this.all), this.batch, this.list, this.more),
        h("div", { class: "editor-column" }, this.editor, this.keys)));
    this.onkey = (event) => this.pressed(event);
    document.addEventListener("keydown", this.onkey);
    for (const name of ["dragenter", "dragover"]) this.root.addEventListener(name, (event) => { event.preventDefault(); this.drop.classList.add("over"); });
    this.root.addEventListener("dragleave", (event) => { if (!this.root.contains(event.relatedTarget)) this.drop.classList.remove("over"); });
    this.root.addEventListener("drop", async (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.add(await droppedFiles(event.dataTransfer));
    });
    // Each click in the editor is work of the person, as a key is.
    this.editor.addEventListener("click", () => { this.strokes += 1; }, true);
    this.editor.addEventListener("keydown", (event) => {
      if (!["Shift", "Control", "Alt", "Meta", "AltGraph", "CapsLock"].includes(event.key)) this.strokes += 1;
    }, true);
    this.stopTime = onTime((seconds, playing) => {
      const words = this.editor.querySelector(".words-line");
      if (words) markNow(words, seconds, playing);
      const control = this.editor.querySelector("#play");
      if (control) put(control, playing ? "Stop " : "Play ", key("Ctrl Enter"));
    });
  }

  close() {
    this.isClosed = true;
    document.removeEventListener("keydown", this.onkey);
    this.stopTime();
    stop();
  }

  // --- what is shown

  async load() {
    const known = await get(`/api/clips?state=accepted&offset=0&limit=${PAGE}`);
    this.pairs = known.clips.map((clip) => [clip.transcript, clip.text]);
    await this.show("unlabelled");
    await this.showEffort();
  }

  async show(state, wanted) {
    this.shown = state;
    this.changes += 1;
    const answer = await get(`/api/clips?state=${state}&offset=0&limit=${PAGE}`);
    if (this.shown !== state) return;
    this.clips = answer.clips;
    this.total = answer.total;
    this.selected.clear();
    this.isChosen = false;
    await refreshProject();
    this.current = this.clips.find((clip) => clip.id === wanted) ?? this.clips[0];
    this.render();
    this.edit();
  }

  async loadMore() {
    const answer = await get(`/api/clips?state=${this.shown}&offset=${this.clips.length}&limit=${PAGE}`);
    const known = new Set(this.clips.map((clip) => clip.id));
    this.clips.push(...answer.clips.filter((clip) => !known.has(clip.id)));
    this.total = answer.total;
    this.render();
  }

  render() {
    const { unlabelled, accepted } = project().counts;
    const numbers = { unlabelled, accepted };
    const names = { unlabelled: "To label", accepted: "Accepted" };
    for (const tab of this.tabs) {
      const { state } = tab.dataset;
      put(tab, names[state], " ", h("span", { class: "count" }, numbers[state].toLocaleString("en")));
      tab.setAttribute("aria-pressed", String(state === this.shown));
    }
    this.showDrop();
    put(this.list, this.clips.map((clip) => this.item(clip)));
    this.more.hidden = this.clips.length >= this.total;
    this.all.hidden = this.clips.length < 2;
    this.renderBatch();
  }

  item(clip) {
    const isCurrent = clip === this.current;
    const box = h("input", { type: "checkbox", checked: this.selected.has(clip.id), "aria-label": `Select ${clip.name ?? clip.id}`,
      onchange: () => this.select(clip, box.checked) });
    const sure = clip.confidence ?? 1;
    return h("li", { class: isCurrent ? "current" : null }, box,
      h("button", { type: "button", class: "queue-item", "data-id": clip.id, "aria-current": isCurrent ? "true" : null, onclick: () => this.open(clip) },
        h("span", { class: "queue-text", dir: "auto" }, clip.text || clip.transcript || "no words"),
        h("span", { class: "queue-facts" },
          h("span", { class: `dot ${sure >= 0.85 ? "sure" : sure >= 0.5 ? "unsure" : "doubtful"}`, "aria-hidden": "true" }),
          clip.confidence === undefined || clip.confidence === null ? "" : `${Math.round(100 * sure)} % sure · `, duration(clip.duration_s),
          clip.speaker ? ` · ${clip.speaker}` : "", clip.session ? ` · ${clip.session}` : "")));
  }

  open(clip) {
    if (!clip) return;
    this.isChosen = true;
    this.current = clip;
    this.render();
    this.edit();
    this.list.querySelector(".current")?.scrollIntoView({ block: "nearest" });
  }

  /** The clip that is corrected, with the cursor in its text. */
  edit() {
    const clip = this.current;
    this.strokes = 0;
    stop();
    if (!clip) return this.renderNothing();
    const spelling = new Spelling(this.pairs);
    const isNew = this.shown === "unlabelled";
    // A text that somebody set already stays as it is.
    const isFresh = isNew && (!clip.text || clip.text === clip.transcript);
    const proposed = isFresh ? spelling.apply(clip.transcript ?? "") : clip.text ?? "";
    this.proposed = proposed;
    this.text = h("textarea", { id: "text", rows: 1, dir: "auto", spellcheck: "false", autocomplete: "off", autocapitalize: "off", oninput: () => this.grow() });
    this.text.value = proposed;
    const reasons = isFresh ? spelling.reasons(clip.transcript ?? "") : [];
    const words = clip.words?.length ? confidenceWords(clip.words, (word) => play(clip.audio, word.start_s)) : null;
    put(this.editor,
      h("div", { class: "editor-head" },
        h("p", { class: "eyebrow", title: clip.name ?? clip.id }, clip.name ?? clip.id),
        h("p", { class: "quiet" }, duration(clip.duration_s), clip.speaker ? ` · ${clip.speaker}` : "")),
      words, words ? this.legend() : null,
      (clip.findings ?? []).map((finding) => h("p", { class: "finding" }, finding.message)),
      h("label", { class: "text-label", for: "text" }, "What is said"),
      this.text,
      reasons.length ? h("p", { class: "note spelled" }, `Spelled as you spell: ${reasons.join(", ")}. `,
        button(["The model's own ", key("Alt O")], () => this.toggleOwn(), { class: "link" })) : null,
      h("div", { class: "row editor-row" },
        button([isNew ? "Accept " : "Save ", key("Enter")], () => this.accept(), { class: "primary", id: "accept" }),
        button(["Play ", key("Ctrl Enter")], () => this.togglePlay(), { id: "play" }),
        button("Throw away", () => this.remove(), { id: "throw-away" }),
        button(["Undo ", key("Ctrl Z")], () => this.undo(), { class: "ghost", id: "undo" }),
        h("label", { class: "check" }, this.autoplayBox(), " Play each by itself")));
    this.grow();
    this.text.focus({ preventScroll: true });
    this.text.setSelectionRange(0, 0);
    if (preference("play-each", true)) play(clip.audio).catch((error) => noticeError("play", error));
    return undefined;
  }

  renderNothing() {
    const isNew = this.shown === "unlabelled";
    const { accepted } = project().counts;
    put(this.editor, h("div", { class: "nothing" },
      h("h2", {}, isNew ? "Everything is labeled" : "Nothing accepted yet"),
      h("p", { class: "quiet" }, isNew ? `${count(accepted, "recording")} can be trained on. Drop more at any time.` : "What you accept is here, and can still be corrected."),
      isNew ? h("p", { class: "row center" }, h("a", { class: "button primary", href: "#/train" }, "Go to Train"),
        button(["Undo ", key("Ctrl Z")], () => this.undo(), { class: "ghost", id: "undo" })) : null));
    return undefined;
  }

  legend() {
    return h("p", { class: "legend small" }, h("span", { class: "word sure" }, "sure"), h("span", { class: "word unsure" }, "less sure"), h("span", { class: "word doubtful" }, "doubtful"));
  }

  autoplayBox() {
    const box = h("input", { type: "checkbox", id: "play-each", checked: preference("play-each", true), onchange: () => preference.set("play-each", box.checked) });
    return box;
  }

  grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight + 2}px`;
  }

  async showEffort() {
    const { keystrokes, typing_everything: everything, saved_percent: saved, clips } = await get("/api/effort");
    if (!everything) return put(this.effort);
    return put(this.effort, saved >= 1 ? h("strong", {}, `${Math.round(saved)} % less typing `) : null,
      h("span", { class: "quiet" }, `${keystrokes.toLocaleString("en")} keys and clicks${clips ? ` for ${count(clips, "clip")}` : ""}; typing everything takes ${everything.toLocaleString("en")}`));
  }

  // --- what a person does

  async accept() {
    const clip = this.current;
    const text = this.text.value.trim();
    if (!text) {
      notice("empty", "plain", "There are no words. Write what is said, or throw the clip away.");
      this.text.focus();
      return;
    }
    if (this.isSaving) return;
    this.isSaving = this.text.readOnly = true;
    const isNew = this.shown === "unlabelled";
    try {
      // A later correction of an accepted text is no part of labeling it.
      await post(`/api/clips/${encodeURIComponent(clip.id)}`, { text, accept: true, keystrokes: isNew ? this.strokes : undefined });
      this.changes += 1;
      closeNotice("empty");
      closeNotice("accept");
      const at = this.clips.indexOf(clip);
      clip.text = text;
      if (isNew) {
        this.pairs.unshift([clip.transcript, text]);
        this.accepted.push(clip.id);
        this.clips.splice(at, 1);
        this.selected.delete(clip.id);
        this.total -= 1;
        if (this.clips.length < 10 && this.clips.length < this.total) await this.loadMore();
      }
      // The least sure one is next, or the next of the list where somebody chose a place in it.
      if (isNew) this.current = this.clips[this.isChosen ? at : 0] ?? this.clips[0];
      else this.current = this.clips[at + 1] ?? clip;
      await Promise.all([refreshProject(), this.showEffort()]);
      this.render();
      this.edit();
      announce(this.current ? `Accepted. Next: ${this.text.value}` : "Accepted. Everything is labeled.");
    } catch (error) {
      this.text.readOnly = false;
      noticeError("accept", error);
    } finally {
      this.isSaving = false;
    }
  }

  async remove(clip = this.current) {
    if (!clip) return;
    const at = this.clips.indexOf(clip);
    try {
      await request("DELETE", `/api/clips/${encodeURIComponent(clip.id)}`);
      await this.show(this.shown, this.clips[at + 1]?.id ?? this.clips[at - 1]?.id);
      announce("Thrown away. Undo brings it back.");
      notice("undo", "plain", "Thrown away.", button("Undo", () => this.undo(), { class: "link" }));
    } catch (error) {
      noticeError("accept", error);
    }
  }

  async undo() {
    try {
      const { undone } = await post("/api/undo");
      closeNotice("undo");
      if (!undone) {
        notice("undo", "plain", "There is nothing to undo.");
        return;
      }
      const accepted = await get(`/api/clips?state=accepted&offset=0&limit=${PAGE}`);
      this.pairs = accepted.clips.map((clip) => [clip.transcript, clip.text]);
      await this.show(this.shown, this.accepted.pop());
      await this.showEffort();
      announce(`Undone: ${undone}`);
      notice("undo", "plain", `Undone: ${undone}`);
    } catch (error) {
      noticeError("undo", error);
    }
  }

  togglePlay() {
    if (isPlaying()) stop();
    else if (this.current) play(this.current.audio);
  }

  /** The model's own spelling, or the person's. */
  toggleOwn() {
    const own = this.current.transcript ?? "";
    this.text.value = this.text.value === own ? this.proposed : own;
    this.grow();
    this.text.focus();
  }

  selectDoubtful(step) {
    const ranges = doubtfulRanges(this.text.value, this.current.words ?? []);
    const at = this.text.selectionStart;
    const isSelected = this.text.selectionEnd > at;
    const range = step > 0 ? ranges.find(([start]) => (isSelected ? start > at : start >= at)) : ranges.findLast(([start]) => start < at);
    const [start, end] = range ?? (step > 0 ? ranges[0] : ranges.at(-1)) ?? [];
    if (start !== undefined) this.text.setSelectionRange(start, end);
  }

  step(by) {
    this.open(this.clips[this.clips.indexOf(this.current) + by]);
  }

  pressed(event) {
    if (document.querySelector("dialog[open]")) return;
    const isInText = event.target === this.text;
    const command = event.ctrlKey || event.metaKey;
    const run = (action) => { event.preventDefault(); action(); };
    if (command && event.key === "Enter") return run(() => this.togglePlay());
    if (event.key === "PageDown" && (isInText || !isTyping(event.target))) return run(() => this.step(1));
    if (event.key === "PageUp" && (isInText || !isTyping(event.target))) return run(() => this.step(-1));
    if (command && event.key.toLowerCase() === "z" && !event.shiftKey) {
      // In a text that was typed in, the browser takes back the typing.
      if (isInText && this.text.value !== this.proposed) return undefined;
      if (isInText || !isTyping(event.target)) return run(() => this.undo());
    }
    if (isInText) return this.pressedInText(event, run);
    if (isTyping(event.target) || command || event.altKey) return undefined;
    return this.pressedInList(event, run);
  }

  pressedInText(event, run) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) return run(() => this.accept());
    if (event.altKey && event.key === "ArrowDown") return run(() => this.selectDoubtful(1));
    if (event.altKey && event.key === "ArrowUp") return run(() => this.selectDoubtful(-1));
    if (event.altKey && event.code === "KeyO") return run(() => this.toggleOwn());
    if (event.key === "Escape") return run(() => this.list.querySelector(".current .queue-item")?.focus());
    return undefined;
  }

  pressedInList(event, run) {
    const { key: name } = event;
    const isInList = this.list.contains(event.target) || event.target === document.body;
    if (name === "?") return run(() => { this.keys.open = !this.keys.open; });
    if (!isInList) return undefined;
    if (name === "ArrowDown" || name === "j") return run(() => this.walk(1));
    if (name === "ArrowUp" || name === "k") return run(() => this.walk(-1));
    if (name === "x" && this.current) return run(() => { this.select(this.focused(), !this.selected.has(this.focused().id)); this.focusItem(this.focusedId); });
    if (name === "Delete" && this.current) return run(() => this.remove(this.focused()));
    return undefined;
  }

  focused() {
    const id = document.activeElement?.dataset?.id ?? this.focusedId;
    return this.clips.find((clip) => clip.id === id) ?? this.current;
  }

  walk(by) {
    const clip = this.clips[this.clips.indexOf(this.focused()) + by];
    if (clip) this.focusItem(clip.id);
  }

  focusItem(id) {
    this.focusedId = id;
    [...this.list.querySelectorAll(".queue-item")].find((item) => item.dataset.id === id)?.focus();
  }

  // --- many at once

  select(clip, on) {
    this.focusedId = clip.id;
    if (on) this.selected.add(clip.id);
    else this.selected.delete(clip.id);
    this.render();
  }

  selectAll() {
    if (this.selected.size === this.clips.length) this.selected.clear();
    else for (const clip of this.clips) this.selected.add(clip.id);
    this.render();
  }

  renderBatch() {
    const number = this.selected.size;
    this.batch.hidden = number === 0;
    put(this.all, number === this.clips.length && number ? "Select none" : "Select all");
    if (!number) return this.batch.replaceChildren();
    if (this.batch.childElementCount) {
      this.batch.querySelector(".batch-count").textContent = count(number, "clip selected", "clips selected");
      return undefined;
    }
    return put(this.batch, h("p", { class: "batch-count" }, count(number, "clip selected", "clips selected")),
      h("label", {}, "Speaker", h("input", { name: "speaker", autocomplete: "off", placeholder: "as it is" })),
      h("label", {}, "Session", h("input", { name: "session", autocomplete: "off", placeholder: "as it is" })),
      h("button", { type: "submit" }, "Set"));
  }

  async setMany() {
    const values = Object.fromEntries([...new FormData(this.batch)].filter(([, value]) => value.trim()));
    if (!Object.keys(values).length) return;
    try {
      await post("/api/clips/batch", { ids: [...this.selected], ...values });
      const number = this.selected.size;
      await this.show(this.shown, this.current?.id);
      notice("batch", "good", `Set for ${count(number, "clip")}.`);
    } catch (error) {
      noticeError("batch", error);
    }
  }

  // --- files on their way

  async add(files) {
    this.files.value = this.folder.value = "";
    for (const { file, path } of files) this.uploads.push({ name: file.name, file, path, text: "waits" });
    this.renderUploads();
    if (this.isSending) return;
    this.isSending = true;
    // Sent one after the other; the studio transcribes those that wait together.
    for (let upload = this.uploads.find((item) => item.file); upload; upload = this.uploads.find((item) => item.file)) {
      await this.send(upload);
    }
    this.isSending = false;
  }

  async send(upload) {
    const { file, path } = upload;
    upload.file = null;
    try {
      upload.text = "sending…";
      this.renderUploads();
      const query = new URLSearchParams({ name: file.name });
      if (path) query.set("path", path);
      const { job } = await request("POST", `/api/uploads?${query}`, file, "application/octet-stream");
      this.followUpload(upload, job);
    } catch (error) {
      upload.error = error;
    }
    this.renderUploads();
  }

  async followUpload(upload, job) {
    try {
      await follow(job, ({ progress = {} }) => {
        upload.text = `${progress.text || "the model listens…"}${progress.total ? `: ${progress.done} of ${progress.total}` : ""}`;
        this.renderUploads();
      });
      await this.arrived();
      this.uploads.splice(this.uploads.indexOf(upload), 1);
    } catch (error) {
      upload.error = error;
    }
    this.renderUploads();
  }

  /** Files that another page, or this one before it was loaded again, has sent. */
  async imported({ job }) {
    if (job?.kind !== "import" || job.state !== "done" || this.uploads.length) return;
    await this.arrived().catch((error) => noticeError("load", error));
  }

  /** New clips are there. Many files end at nearly the same time, and share a request. */
  arrived() {
    this.hasArrivals = true;
    this.arriving ??= this.takeArrivals().finally(() => { this.arriving = null; });
    return this.arriving;
  }

  /** What is being corrected stays as it is. */
  async takeArrivals() {
    while (this.hasArrivals) {
      this.hasArrivals = false;
      await refreshProject();
      if (this.isClosed) return;
      if (this.shown !== "unlabelled") this.render();
      else if (!this.current) await this.show("unlabelled");
      else await this.showArrivals();
    }
  }

  async showArrivals() {
    const before = this.changes;
    const answer = await get(`/api/clips?state=unlabelled&offset=0&limit=${PAGE}`);
    // A clip that was accepted meanwhile may still be in the answer.
    if (before !== this.changes) {
      this.hasArrivals = true;
      return;
    }
    this.clips = answer.clips.map((clip) => (clip.id === this.current.id ? this.current : clip));
    if (!this.clips.includes(this.current)) this.clips.unshift(this.current);
    this.total = answer.total;
    this.render();
  }

  renderUploads() {
    if (this.isClosed) return;
    const failed = this.uploads.filter((upload) => upload.error);
    const others = this.uploads.filter((upload) => !upload.error);
    put(this.uploadList, others.slice(0, 5).map(({ name, text }) => h("li", {}, h("span", { class: "file-name" }, name), h("span", { class: "quiet" }, text))),
      others.length > 5 ? h("li", { class: "quiet" }, `and ${count(others.length - 5, "more file")}`) : null,
      failed.map((upload) => h("li", { class: "failed" }, h("span", { class: "file-name" }, upload.name),
        h("span", {}, upload.error.message, upload.error.next ? ` ${upload.error.next}` : ""),
        button("✕", () => { this.uploads.splice(this.uploads.indexOf(upload), 1); this.renderUploads(); }, { class: "close", "aria-label": "Close this message" }))));
    this.showDrop();
  }

  /** Large while there is nothing else to do here. */
  showDrop() {
    const { unlabelled, accepted } = project().counts;
    this.drop.classList.toggle("large", !unlabelled && !this.uploads.length);
    this.root.querySelector(".label-grid").hidden = !unlabelled && !accepted;
  }
}

export async function openLabel(root) {
  const view = new LabelView(root);
  const shown = view.load().catch((error) => noticeError("load", error));
  return { close: () => view.close(), shown, onEvent: (event) => view.imported(event) };
}
