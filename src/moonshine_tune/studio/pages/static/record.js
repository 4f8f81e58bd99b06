// Record: one sentence at a time, judged as soon as it is spoken.

import { get, post, request } from "./api.js";
import { announce, button, closeNotice, count, duration, h, isTyping, key, notice, noticeError, put, withoutSpaceClick } from "./dom.js";
import { Meter } from "./meter.js";
import { Microphone, microphones, whyNoMicrophone } from "./microphone.js";
import { keepTake, send, waiting } from "./outbox.js";
import { play, playWav, stop as stopPlaying } from "./player.js";
import { promptForms } from "./prompts.js";
import { preference, project, refreshProject } from "./state.js";
import { encodeWav } from "./wav.js";

class RecordView {
  constructor(root) {
    this.root = root;
    this.microphone = new Microphone();
    this.microphone.stopsAtSilence = preference("stop-at-silence", true);
    this.prompts = [];
    this.state = "ready"; // ready, opening, recording, judging, refused
    this.reading = null; // the sentence of the recording that runs or is judged
    this.last = null; // the last accepted take
    this.resending = false;
    this.build();
  }

  build() {
    this.promptText = h("p", { class: "prompt", id: "prompt", dir: "auto" });
    this.reason = h("p", { class: "prompt-reason" });
    this.meter = new Meter();
    this.main = withoutSpaceClick(button("Record", () => this.toggle(), { class: "primary record", id: "record-button", "aria-keyshortcuts": "Space" }));
    this.hint = h("p", { class: "record-hint" });
    this.again = button(["Again ", key("R")], () => this.recordAgain(), { id: "again" });
    this.skip = button(["Skip ", key("S")], () => this.skipPrompt(), { id: "skip" });
    this.replay = button(["Replay ", key("P")], () => this.replayTake(), { id: "replay" });
    this.verdict = h("div", { class: "verdict-box", id: "verdict" });
    this.devices = h("select", { id: "device", onchange: () => this.chooseDevice() });
    this.stage = h("section", { class: "stage card-like", "aria-label": "The sentence to read" },
      h("div", { class: "stage-head" }, h("p", { class: "eyebrow", id: "prompt-number" }), this.reason),
      this.promptText,
      this.meter.element,
      h("div", { class: "record-row" }, this.main, h("div", { class: "record-side" }, this.replay, this.again, this.skip)),
      h("div", { class: "below" }, this.hint, this.verdict),
      h("div", { class: "record-options" },
        h("label", {}, "Microphone ", this.devices),
        option("stop-at-silence", "Stop by itself when I stop speaking", true, (on) => { this.microphone.stopsAtSilence = on; }),
        option("hands-free", "Start the next one by itself", false, () => {})));
    this.empty = h("section", { class: "empty card-like" },
      h("h1", {}, "What will you read aloud?"),
      h("p", { class: "lead" }, "Twenty minutes of your own sentences is a good start. Add a list, or let the studio propose sentences."),
      h("div", { class: "prompt-forms" }),
      h("p", { class: "note" }, "You have recordings already? ", h("a", { href: "#/label" }, "Drop them under Label"), "."));
    this.more = h("details", { class: "more-prompts" }, h("summary", {}, "Add sentences"), h("div", { class: "prompt-forms" }));
    this.next = h("ol", { class: "upcoming", "aria-label": "Next sentences" });
    this.nextBox = h("section", { class: "upcoming-box" }, h("h2", { class: "small-head" }, "Next"), this.next, this.more);
    this.kept = h("section", { class: "kept", hidden: true, "aria-label": "Recordings that wait for the studio" });
    put(this.root, h("h1", { class: "visually-hidden" }, "Record"), this.kept,
      h("div", { class: "record-grid" }, this.stage, this.nextBox), this.empty);
    put(this.empty.querySelector(".prompt-forms"), promptForms(() => this.load()));
    put(this.more.querySelector(".prompt-forms"), promptForms(() => this.load()));
    this.microphone.onlevel = (level, isSpeech) => this.meter.show(level, this.microphone.end.threshold, isSpeech);
    this.microphone.onend = (samples, rate, reason) => this.judge(samples, rate, reason);
    this.onkey = (event) => this.pressed(event);
    document.addEventListener("keydown", this.onkey);
  }

  close() {
    clearTimeout(this.soon);
    document.removeEventListener("keydown", this.onkey);
    this.microphone.close();
    this.microphone.prepared?.then((context) => context.close(), () => {});
    stopPlaying();
  }

  async load() {
    await refreshProject();
    await this.fetchPrompts();
    this.render();
    await this.sendWaiting();
    await this.listDevices();
    if (window.isSecureContext) await this.microphone.prepare().catch(() => { /* tried again when it opens */ });
  }

  /** The sentence to read. It stays the same through a recording, whatever is fetched meanwhile. */
  get prompt() {
    return this.reading ?? this.prompts.find((prompt) => !prompt.takes);
  }

  /** The next sentences. Those whose recording waits in this browser are not asked for again. */
  async fetchPrompts() {
    this.prompts = (await get("/api/prompts?limit=50")).prompts;
    for (const take of await this.waitingTakes()) this.markTaken(take.prompt);
  }

  /** The recordings of this project that wait in this browser; none without storage. */
  async waitingTakes() {
    const takes = await waiting().catch(() => []);
    return takes.filter((take) => take.project === project().folder);
  }

  markTaken(id) {
    for (const prompt of this.prompts) if (prompt.id === id) prompt.takes = (prompt.takes ?? 0) + 1;
  }

  render() {
    const prompt = this.prompt;
    this.empty.hidden = this.prompts.length > 0;
    this.stage.hidden = this.nextBox.hidden = this.prompts.length === 0;
    const { accepted, prompts, prompts_left: left } = project().counts;
    this.stage.dataset.state = prompt ? this.state : "complete";
    this.stage.querySelector("#prompt-number").textContent = prompt
      ? `${(prompts - left + 1).toLocaleString("en")} of ${count(prompts, "sentence")}` : count(accepted, "recording");
    this.promptText.textContent = prompt?.text ?? "All sentences are recorded.";
    this.promptText.classList.toggle("long", (prompt?.text.length ?? 0) > 90);
    this.reason.textContent = prompt?.reason ?? "";
    const isRecording = this.state === "recording";
    this.main.hidden = !prompt && !isRecording;
    this.main.disabled = this.state === "judging" || this.state === "opening";
    put(this.main, { recording: "Stop", judging: "Listening…", opening: "Opening…" }[this.state] ?? "Record", " ", key("Space"));
    this.main.classList.toggle("on", isRecording);
    this.again.hidden = !(this.refused || this.last);
    this.replay.hidden = !(this.refused || this.last);
    this.skip.hidden = !prompt;
    for (const item of [this.again, this.replay, this.skip]) item.disabled = isRecording || this.state === "judging";
    this.hint.textContent = !prompt ? "Add more below, or go on to Train."
      : isRecording ? (this.microphone.stopsAtSilence ? "Read it aloud. It stops when you stop." : "Read it aloud, then press Space.")
        : this.state === "judging" ? "The checks and the model listen to it." : "";
    this.hint.hidden = !this.hint.textContent;
    this.renderNext();
  }

  renderNext() {
    const rest = this.prompts.filter((prompt) => !prompt.takes && prompt !== this.prompt).slice(0, 6);
    put(this.next, rest.map((prompt) => h("li", { dir: "auto" }, prompt.text)));
    this.nextBox.querySelector(".small-head").hidden = rest.length === 0;
  }

  setState(state) {
    this.state = state;
    this.render();
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    // A button that has the focus does what it says on Space.
    const isOnControl = event.target.closest?.("button, a, summary, input, select") && event.target !== this.main;
    const run = { " ": () => this.toggle(), r: () => this.recordAgain(), s: () => this.skipPrompt(), p: () => this.replayTake(), k: () => this.keepAnyway() }[event.key.toLowerCase()];
    if (!run || (event.key === " " && isOnControl) || this.stage.hidden) return;
    event.preventDefault();
    run();
  }

  async toggle() {
    if (this.state === "recording") return this.microphone.stop();
    if (this.state === "judging" || this.state === "opening" || !this.prompt) return undefined;
    clearTimeout(this.soon);
    stopPlaying();
    if (!this.microphone.isOpen && !(await this.openMicrophone())) return undefined;
    this.refused = null;
    this.verdict.replaceChildren();
    this.reading = this.prompt;
    this.microphone.record();
    this.setState("recording");
    this.main.focus();
    announce("Recording");
    return undefined;
  }

  async openMicrophone() {
    this.setState("opening");
    try {
      await this.microphone.open(preference("device", ""));
      closeNotice("microphone");
      await this.listDevices();
      return true;
    } catch (error) {
      if (error.name === "OverconstrainedError") {
        // The device of last time is gone.
        preference.set("device", "");
        return this.openMicrophone();
      }
      const [what, next] = whyNoMicrophone(error);
      notice("microphone", "bad", what, h("p", { class: "what-next" }, next));
      return false;
    } finally {
      this.setState("ready");
    }
  }

  async listDevices() {
    const devices = await microphones();
    const chosen = this.microphone.device ?? preference("device", "");
    put(this.devices, devices.length ? null : h("option", { value: "" }, "the browser's choice"),
      devices.map((device) => h("option", { value: device.deviceId, selected: device.deviceId === chosen }, device.label)));
  }

  async chooseDevice() {
    preference.set("device", this.devices.value);
    this.microphone.discard();
    this.reading = null;
    await this.openMicrophone();
  }

  async judge(samples, rate, reason) {
    const prompt = this.prompt;
    if (reason === "longest") notice("longest", "plain", "A recording ends after 40 seconds. Split a longer text into sentences.");
    if (reason === "unplugged") notice("microphone", "bad", "The microphone was unplugged; what it recorded until then is judged.");
    this.setState("judging");
    this.meter.rest();
    const wav = encodeWav(samples, rate);
    const take = await keepTake(prompt, wav, project().folder);
    await this.deliver(take, prompt);
  }

  async deliver(take, prompt, options) {
    try {
      const answer = await send(take, options);
      this.reading = null;
      if (answer.verdict === "accepted") await this.accepted(answer, take, prompt);
      else this.showRefused(answer, take, prompt);
    } catch (error) {
      this.state = "ready";
      this.reading = null;
      if (error.isTemporary) {
        this.markTaken(prompt.id);
        await this.renderWaiting();
        announce("The studio does not answer. The recording is kept in this browser.");
        this.retryLater();
      } else {
        noticeError("take", error);
      }
      this.render();
    }
  }

  async accepted(answer, take, prompt) {
    this.markTaken(prompt.id);
    const replaced = this.replaces;
    this.replaces = null;
    this.refused = null;
    this.last = { take, prompt, answer };
    if (replaced) await request("DELETE", `/api/clips/${encodeURIComponent(replaced)}`).catch((error) => noticeError("replace", error));
    closeNotice("take");
    this.state = "ready";
    put(this.verdict, h("div", { class: "verdict-line accepted" },
      h("strong", {}, "✓ Kept "), h("span", { dir: "auto" }, prompt.text),
      answer.clip ? h("span", { class: "quiet" }, ` ${duration(answer.clip.duration_s)}`) : null,
      (answer.findings ?? []).map((finding) => h("p", { class: "note" }, finding.message)),
      answer.remark ? h("p", { class: "note" }, answer.remark) : null));
    await refreshProject();
    if (!this.prompts.some((other) => !other.takes)) await this.fetchPrompts();
    this.render();
    announce(this.prompt ? `Kept. Next: ${this.prompt.text}` : "Kept. All sentences are recorded.");
    this.main.focus();
    if (preference("hands-free", false) && this.prompt) this.soon = setTimeout(() => this.toggle(), 900);
  }

  showRefused(answer, take, prompt) {
    this.state = "refused";
    this.refused = { take, prompt, answer };
    const canKeep = answer.findings.length > 0 && answer.findings.every((finding) => finding.can_keep);
    put(this.verdict, h("div", { class: "verdict-line refused" },
      h("strong", {}, canKeep ? "Please check this one" : "Not kept"),
      h("ul", { class: "findings" }, answer.findings.map((finding) => h("li", { "data-finding": finding.name }, h("p", {}, finding.message), finding.action ? h("p", { class: "what-next" }, finding.action) : null))),
      answer.transcript ? h("p", { class: "understood" }, h("span", { class: "quiet" }, "The model understood: "), h("q", { dir: "auto" }, answer.transcript)) : null,
      h("p", { class: "row" },
        button(["Record again ", key("R")], () => this.recordAgain(), { class: "primary" }),
        canKeep ? button(["Keep anyway ", key("K")], () => this.keepAnyway(), { id: "keep" }) : null)));
    this.render();
    announce(`Not kept. ${answer.findings.map((finding) => finding.message).join(" ")}`);
    this.main.focus();
  }

  async keepAnyway() {
    const kept = this.refused;
    if (!kept || !kept.answer.findings.every((finding) => finding.can_keep)) return;
    this.setState("judging");
    await this.deliver(kept.take, kept.prompt, { keep: true });
  }

  recordAgain() {
    if (this.state === "recording") {
      this.microphone.discard();
      this.reading = null;
    } else if (this.refused) {
      this.refused = null;
    } else if (this.last && this.state === "ready") {
      // The kept one goes when the new one is there, not before.
      this.replaces = this.last.answer.clip?.id;
      this.last.prompt.takes = 0;
      this.prompts = [this.last.prompt, ...this.prompts.filter((prompt) => prompt.id !== this.last.prompt.id)];
      this.last = null;
    } else return;
    this.state = "ready";
    this.toggle();
  }

  async skipPrompt() {
    const prompt = this.prompt;
    if (!prompt || this.state === "recording" || this.state === "judging") return;
    this.refused = null;
    this.replaces = null;
    this.verdict.replaceChildren();
    try {
      await post(`/api/prompts/${encodeURIComponent(prompt.id)}/skip`);
      await this.fetchPrompts();
    } catch (error) {
      noticeError("skip", error);
    }
    this.setState("ready");
    announce(this.prompt ? `Skipped. Next: ${this.prompt.text}` : "Skipped.");
    this.main.focus();
  }

  replayTake() {
    if (this.state === "recording") return;
    const take = (this.refused ?? this.last)?.take;
    if (take) playWav(take.wav);
    else if (this.last?.answer.clip) play(this.last.answer.clip.audio);
  }

  // --- takes that could not be sent

  retryLater() {
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.sendWaiting(), 4000);
  }

  async sendWaiting() {
    if (this.resending || this.state === "judging") return;
    this.resending = true;
    const takes = await this.waitingTakes();
    for (const take of takes) {
      try {
        const answer = await send(take);
        if (answer.verdict !== "accepted") {
          notice(`late-${take.id}`, "plain", `A recording that waited was not kept: “${take.text}”`,
            h("p", { class: "what-next" }, answer.findings.map((finding) => finding.message).join(" ")));
        }
      } catch (error) {
        if (error.isTemporary) {
          this.retryLater();
          break;
        }
        noticeError("take", error);
      }
    }
    this.resending = false;
    await this.renderWaiting();
    if (takes.length) {
      try {
        await this.fetchPrompts();
        await refreshProject();
      } catch {
        return; // the studio is gone again; what waits is sent later
      }
      if (this.state === "ready") this.render();
    }
  }

  /** What the studio tells by itself. */
  heed({ connected, model }) {
    if (connected) this.sendWaiting();
    // The first recording may wait until the model is loaded, or even downloaded.
    if (model && this.state === "judging") this.hint.textContent = model;
  }

  async renderWaiting() {
    const takes = await this.waitingTakes();
    this.kept.hidden = takes.length === 0;
    put(this.kept, h("p", {}, h("strong", {}, `${count(takes.length, "recording")} ${takes.length === 1 ? "waits" : "wait"} for the studio. `),
      "Kept in this browser, and sent as soon as the studio answers. Go on recording."));
  }
}

function option(name, text, initial, change) {
  const box = h("input", { type: "checkbox", id: `option-${name}`, checked: preference(name, initial), onchange: () => {
    preference.set(name, box.checked);
    change(box.checked);
  } });
  return h("label", { class: "check" }, box, " ", text);
}

export async function openRecord(root) {
  const view = new RecordView(root);
  const shown = view.load().catch((error) => noticeError("load", error));
  return { close: () => view.close(), shown, onEvent: (event) => view.heed(event) };
}
