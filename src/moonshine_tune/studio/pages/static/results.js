// Results: base and adapted side by side, tried by microphone or file, and taken along.

import { follow, get, post, request } from "./api.js";
import { announce, button, closeNotice, count, duration, h, key, isTyping, notice, noticeError, put, withoutSpaceClick } from "./dom.js";
import { chart } from "./curves.js";
import { Meter } from "./meter.js";
import { Microphone, whyNoMicrophone } from "./microphone.js";
import { stop as stopPlaying } from "./player.js";
import { scoreOf } from "./scores.js";
import { preference, refreshProject } from "./state.js";
import { encodeWav } from "./wav.js";
import { alignedWords, alignmentLegend } from "./words.js";

const SHOWN = 12;
// Points of wrong words that are not colored: a few words decide over them.
const NO_CHANGE = 0.5;

class ResultsView {
  constructor(root, wanted) {
    this.root = root;
    this.wanted = wanted;
    this.microphone = new Microphone();
    this.onkey = (event) => this.pressed(event);
    document.addEventListener("keydown", this.onkey);
  }

  close() {
    this.isClosed = true;
    document.removeEventListener("keydown", this.onkey);
    this.microphone.close();
    stopPlaying();
  }

  async load() {
    await refreshProject();
    const runs = await get("/api/runs");
    if (!runs.length) {
      put(this.root, h("h1", {}, "Results"), h("section", { class: "card-like nothing" }, h("h2", {}, "No training yet"),
        h("p", { class: "quiet" }, "After a training you see here, word by word, what changed, and try it with your voice."),
        h("p", { class: "row center" }, h("a", { class: "button primary", href: "#/train" }, "Go to Train"))));
      return;
    }
    const run = runs.find(({ name }) => name === this.wanted) ?? runs[0];
    this.name = run.name;
    const picker = h("select", { id: "run", onchange: () => { location.hash = `#/results/${encodeURIComponent(picker.value)}`; } },
      runs.map(({ name }) => h("option", { value: name, selected: name === this.name }, name)));
    this.scores = h("section", { class: "scores", "aria-label": "Scores" });
    this.tryBox = h("section", { class: "try card-like" });
    this.cards = h("section", { class: "side-by-side" });
    this.curve = h("section", { class: "curve card-like" });
    this.take = h("section", { class: "take card-like" });
    put(this.root, h("div", { class: "view-head" }, h("h1", {}, "Results"), h("label", { class: "run-picker" }, "Run ", picker)),
      this.scores, this.tryBox, this.cards, h("div", { class: "two" }, this.take, this.curve));
    this.drawTry();
    this.drawTake();
    this.drawCurve();
    await this.showScores();
  }

  // --- scores

  async showScores() {
    const run = await get(`/api/runs/${encodeURIComponent(this.name)}`);
    const names = { test: ["Recordings that it never saw", "words wrong"], dev: ["Recordings it was steered by", "words wrong"], canary: ["General speech", "words wrong"] };
    const known = Object.entries(names).filter(([set]) => scoreOf(run.scores, set));
    put(this.scores,
      run.verdict ? h("p", { class: "lead" }, `Compared with the model before: ${run.verdict}.`) : null,
      known.length ? h("dl", { class: "tiles" }, known.map(([set, [name, what]]) => tile(name, what, scoreOf(run.scores, set)))) : null,
      h("p", { class: "row" },
        !scoreOf(run.scores, "test")
          ? this.jobButton("Measure on the recordings kept back", { kind: "evaluate" }, () => this.measured(), "evaluate") : null,
        h("a", { class: "button", href: `/runs/${encodeURIComponent(this.name)}/report.html`, target: "_blank", rel: "noopener" }, "Open the full report")));
    this.cards.hidden = true;
    if (scoreOf(run.scores, "test")) await this.showCards();
  }

  async measured() {
    announce("Measured.");
    await this.showScores();
  }

  /** A button that runs a job of this run, with its progress beside it. */
  jobButton(text, body, done, id) {
    const status = h("span", { class: "quiet job-status" });
    const control = button(text, async () => {
      control.disabled = true;
      closeNotice(id);
      try {
        const { job } = await post("/api/jobs", { run: this.name, ...body });
        const state = await follow(job, ({ progress = {} }) => {
          put(status, progress.text ?? "Working…", progress.total ? ` ${progress.done} of ${progress.total}` : "");
        });
        put(status);
        if (!this.isClosed) await done(state.result ?? {});
      } catch (error) {
        put(status);
        noticeError(id, error);
      } finally {
        control.disabled = false;
      }
    }, { id });
    return [control, status];
  }

  // --- side by side

  async showCards() {
    const clips = await get(`/api/runs/${encodeURIComponent(this.name)}/side-by-side`);
    this.cards.hidden = !clips.length;
    if (!clips.length) return;
    const errors = (diff) => diff.filter(({ op }) => op !== "same").length;
    const changed = clips.map((clip) => ({ ...clip, change: errors(clip.adapted_diff) - (clip.base_diff ? errors(clip.base_diff) : 0) }));
    const groups = { "": "All", better: "Better", worse: "Worse", wrong: "Still wrong" };
    const belongs = { "": () => true, better: (clip) => clip.change < 0, worse: (clip) => clip.change > 0, wrong: (clip) => errors(clip.adapted_diff) > 0 };
    let shown = SHOWN;
    let group = "";
    const grid = h("div", { class: "cards" });
    const more = button("Show more", () => { shown += SHOWN; draw(); });
    const filters = Object.entries(groups).map(([name, text]) => button([text, " ", h("span", { class: "count" }, String(changed.filter(belongs[name]).length))],
      () => { group = name; shown = SHOWN; draw(); }, { class: "tab", "data-group": name }));
    const draw = () => {
      const chosen = changed.filter(belongs[group]);
      filters.forEach((item) => item.setAttribute("aria-pressed", String(item.dataset.group === group)));
      put(grid, chosen.slice(0, shown).map(card), chosen.length ? null : h("p", { class: "quiet" }, "None."));
      more.hidden = chosen.length <= shown;
    };
    put(this.cards, h("div", { class: "section-head" }, h("h2", {}, "Side by side"), h("div", { class: "tabs" }, filters)), alignmentLegend(), grid, more);
    draw();
  }

  // --- try

  drawTry() {
    this.tryMeter = new Meter();
    this.tryButton = withoutSpaceClick(button("Speak", () => this.toggleTry(), { class: "primary", id: "try" }));
    const file = h("input", { type: "file", accept: "audio/*", class: "visually-hidden", id: "try-file", onchange: () => { if (file.files[0]) this.tryFile(file.files[0]); file.value = ""; } });
    this.tryResult = h("div", { class: "try-result", role: "status", "aria-live": "polite" });
    put(this.tryBox, h("h2", {}, "Try it"), h("p", { class: "quiet" }, "Say something in your own words. Nothing is kept."), this.tryMeter.element,
      h("div", { class: "row" }, this.tryButton, h("label", { class: "button", for: "try-file" }, "Choose a file", file)), this.tryResult);
    this.drawTryButton();
    this.microphone.onlevel = (level, isSpeech) => this.tryMeter.show(level, 0, isSpeech);
    this.microphone.onend = (samples, rate) => { this.drawTryButton(); this.transcribe(encodeWav(samples, rate), "audio/wav"); };
  }

  drawTryButton() {
    const isOn = this.microphone.isRecording;
    put(this.tryButton, isOn ? "Stop " : "Speak ", key("Space"));
    this.tryButton.classList.toggle("on", isOn);
  }

  pressed(event) {
    if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey || event.repeat || isTyping(event.target) || !this.tryButton) return;
    if (event.target.closest?.("button, a, summary, input, select, audio, svg, dialog") && event.target !== this.tryButton) return;
    event.preventDefault();
    this.toggleTry();
  }

  async toggleTry() {
    if (this.microphone.isRecording) return this.microphone.stop();
    stopPlaying();
    if (!this.microphone.isOpen) {
      try {
        await this.microphone.open(preference("device", ""));
      } catch (error) {
        const [what, next] = whyNoMicrophone(error);
        notice("microphone", "bad", what, h("p", { class: "what-next" }, next));
        return undefined;
      }
    }
    this.microphone.record();
    this.drawTryButton();
    return undefined;
  }

  async tryFile(file) {
    await this.transcribe(file, file.type || "application/octet-stream", file.name);
  }

  async transcribe(body, type, name = "") {
    put(this.tryResult, h("p", { class: "quiet busy" }, "Both models listen…"));
    try {
      const query = new URLSearchParams({ run: this.name, ...(name ? { name } : {}) });
      const { base, adapted, base_s: baseTime, adapted_s: adaptedTime } = await request("POST", `/api/try?${query}`, body, type);
      put(this.tryResult, h("dl", {}, line("Adapted", adapted, adaptedTime), line("Before", base, baseTime)),
        base === adapted ? h("p", { class: "note" }, "Both understand the same.") : null);
    } catch (error) {
      put(this.tryResult);
      noticeError("try", error);
    }
  }

  // --- take along

  drawTake() {
    this.exported = h("div", { class: "exported", role: "status" });
    put(this.take, h("h2", {}, "Take it along"),
      h("p", { class: "quiet" }, "The files that the Moonshine runtime loads in an app. They are checked first: the runtime must write what the model writes."),
      h("p", { class: "row" }, this.jobButton("Export", { kind: "export" }, (result) => this.drawExported(result), "export")),
      this.exported);
  }

  drawExported(result) {
    const parity = result.parity ?? {};
    // Few recordings are too few to tell. The files are complete, and the person decides.
    const isUndecided = parity.passed === false && parity.verdict === "not decided";
    const isRefused = parity.passed === false && !isUndecided;
    const [kind, word] = isRefused ? ["failed", "✗ Refused: "] : isUndecided ? ["undecided", "Not decided: "] : ["passed", "✓ Checked: "];
    announce(isRefused ? "The export differs and is refused." : isUndecided ? "Exported. The check is not decided." : "Exported.");
    put(this.exported,
      h("p", { class: `gate ${kind}` }, h("strong", {}, word), parity.summary ?? "runtime and model agree"),
      isUndecided ? h("p", { class: "note" }, "The files are complete and may work. Try them, or record more and export again.") : null,
      isRefused ? null : h("p", { class: "row" },
        result.download ? h("a", { class: "button primary", href: safePath(result.download), download: "" }, "Download the runtime folder") : null,
        this.jobButton("Make a package", { kind: "package", allow_failed_parity: isUndecided }, (made) => this.drawPackage(made), "package")));
  }

  drawPackage({ download }) {
    this.exported.querySelector(".package")?.remove();
    if (download) this.exported.append(h("p", { class: "row package" }, h("a", { class: "button", href: safePath(download), download: "" }, "Download the package")));
    announce("The package is ready.");
  }

  // --- how many more

  drawCurve() {
    this.curveResult = h("div", { class: "curve-result" });
    put(this.curve, h("h2", {}, "Would more recordings help?"),
      h("p", { class: "quiet" }, "Trains on parts of your recordings and draws where it leads. Takes a few trainings' time."),
      h("p", { class: "row" }, this.jobButton("Find out", { kind: "curve" }, (result) => this.drawNeeded(result), "curve")), this.curveResult);
  }

  drawNeeded({ sentences = [], summary, points = [] }) {
    const lines = sentences.length ? sentences : [summary].filter(Boolean);
    put(this.curveResult, lines.map((sentence) => h("p", {}, sentence)),
      points.length ? chart({ title: "Words that are wrong", unit: "%", xName: "recordings", series: [{ name: "wrong", kind: "first", dots: true, points: points.map(({ recordings, wer }) => [recordings, wer]) }] }) : null);
  }
}

const line = (name, text, seconds) => h("div", { class: name === "Adapted" ? "adapted" : null }, h("dt", {}, name, seconds ? h("small", {}, ` ${duration(seconds)}`) : null), h("dd", { dir: "auto" }, text || "no words"));

// Downloads are this server's own.
const safePath = (path) => (/^\/(?!\/)/u.test(path) ? path : "#");

function tile(name, what, score) {
  const { base, adapted } = score;
  const change = base === null ? 0 : adapted - base;
  return h("div", { class: `tile ${change < -NO_CHANGE ? "better" : change > NO_CHANGE ? "worse" : ""}` }, h("dt", {}, name),
    h("dd", {}, h("p", { class: "figure" },
      base !== null ? [h("span", { class: "before" }, base.toFixed(1)), h("span", { class: "arrow", "aria-label": "to" }, "→")] : null,
      h("span", { class: "now" }, adapted.toFixed(1)), h("span", { class: "unit" }, "%")), h("p", { class: "detail" }, what)));
}

function card({ reference, base_diff: before, adapted_diff: after, audio, change, id }) {
  const word = change < 0 ? ["improved", `${count(-change, "word")} better`] : change > 0 ? ["damaged", `${count(change, "word")} worse`] : ["", ""];
  return h("article", { class: "card" },
    h("header", {}, h("h3", {}, id), h("p", { class: `tag ${word[0]}` }, word[1])),
    h("dl", {},
      h("div", {}, h("dt", {}, "Spoken"), h("dd", { class: "reference", dir: "auto" }, reference)),
      before ? h("div", {}, h("dt", {}, "Before"), h("dd", {}, alignedWords(before))) : null,
      h("div", {}, h("dt", {}, "Adapted"), h("dd", {}, alignedWords(after)))),
    audio ? h("audio", { controls: true, preload: "none", src: safePath(audio), "aria-label": `Recording ${id}` }) : null);
}

export async function openResults(root, run) {
  const view = new ResultsView(root, run);
  const shown = view.load().catch((error) => noticeError("load", error));
  return { close: () => view.close(), shown, onEvent: () => {} };
}
